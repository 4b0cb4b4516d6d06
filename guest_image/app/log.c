#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

void log_line(const char *format, ...)
{
    char line[512];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int start = snprintf(line, sizeof line, "autoscaler %ld.%03ld ", (long)now.tv_sec, now.tv_nsec / 1000000);
    va_list arguments;
    va_start(arguments, format);
    int length = start + vsnprintf(line + start, sizeof line - (size_t)start, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length + 1) < 0)
        return; /* nowhere left to say it */
}
