/* One line on standard output, which is the console in a guest. */
#ifndef LOG_H
#define LOG_H

void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
