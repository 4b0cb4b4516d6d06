#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

size_t http_head_length(const char *data, size_t length)
{
    const char *end = memmem(data, length, "\r\n\r\n", 4);
    return end == NULL ? 0 : (size_t)(end - data) + 4;
}

/* Read digits and nothing else; the length test keeps the sum far from overflow. */
static bool read_decimal(const char *text, size_t length, unsigned long max, unsigned long *number)
{
    unsigned long sum = 0;
    if (length == 0 || length > 15)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        sum = sum * 10 + (unsigned long)(text[i] - '0');
    }
    *number = sum;
    return sum <= max;
}

static enum http_method method_of(const char *name)
{
    if (strcmp(name, "GET") == 0)
        return METHOD_GET;
    if (strcmp(name, "HEAD") == 0)
        return METHOD_HEAD;
    return strcmp(name, "POST") == 0 ? METHOD_POST : METHOD_OTHER;
}

static int read_request_line(char *line, struct http_request *request)
{
    char *target = strchr(line, ' ');
    char *version = target == NULL ? NULL : strchr(target + 1, ' ');
    if (version == NULL || target == line)
        return 400;
    *target++ = '\0';
    *version++ = '\0';
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return strncmp(version, "HTTP/", 5) == 0 ? 505 : 400;
    if (strncasecmp(target, "http://", 7) == 0) { /* absolute form, as a proxy may send it */
        target = strchr(target + 7, '/');
        if (target == NULL)
            return 400;
    }
    request->method = method_of(line);
    if (*target != '/' && !(request->method == METHOD_OTHER && strcmp(target, "*") == 0))
        return 400;
    char *query = strchr(target, '?');
    if (query != NULL)
        *query++ = '\0';
    request->path = target;
    request->query = query == NULL ? "" : query;
    request->keep_alive = version[7] == '1';
    return 0;
}

static int read_header(char *line, struct http_request *request, bool *has_length)
{
    char *value = strchr(line, ':');
    if (value == NULL || value == line || strcspn(line, " \t") < (size_t)(value - line))
        return 400; /* includes folded lines, which begin with a blank */
    *value++ = '\0';
    value += strspn(value, " \t");
    size_t length = strlen(value);
    while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t'))
        value[--length] = '\0';
    if (strcasecmp(line, "Content-Length") == 0) {
        unsigned long number = 0;
        if (!read_decimal(value, length, HTTP_MAX_BODY_BYTES, &number))
            return number > HTTP_MAX_BODY_BYTES ? 413 : 400;
        if (*has_length && number != request->content_length)
            return 400; /* two lengths: one of the two ends of a proxy would be fooled */
        *has_length = true;
        request->content_length = number;
    } else if (strcasecmp(line, "Transfer-Encoding") == 0) {
        return 411;
    } else if (strcasecmp(line, "Connection") == 0) {
        if (strcasecmp(value, "close") == 0)
            request->keep_alive = false;
        else if (strcasecmp(value, "keep-alive") == 0)
            request->keep_alive = true;
    } else if (strcasecmp(line, "Expect") == 0) {
        if (strcasecmp(value, "100-continue") != 0)
            return 417;
        request->expects_continue = true;
    }
    return 0;
}

int http_read_head(char *head, size_t length, struct http_request *request)
{
    *request = (struct http_request){.path = "/", .query = ""};
    if (memchr(head, '\0', length) != NULL)
        return 400;
    bool has_length = false;
    char *line = head, *last = head + length - 2; /* the empty line that ends the head */
    for (int number = 0; line < last; number++) {
        char *end = memmem(line, length - (size_t)(line - head), "\r\n", 2);
        *end = '\0';
        if (strpbrk(line, "\r\n") != NULL)
            return 400;
        int status = number == 0 ? read_request_line(line, request) : read_header(line, request, &has_length);
        if (status != 0)
            return status;
        line = end + 2;
    }
    return line == head ? 400 : 0;
}

const char *http_query_number(const char *query, const char *name, unsigned long max, unsigned long *number)
{
    size_t name_length = strlen(name);
    bool found = false;
    for (const char *part = query; *part != '\0';) {
        size_t length = strcspn(part, "&");
        if (length > name_length && strncmp(part, name, name_length) == 0 && part[name_length] == '=') {
            if (found)
                return "is given twice";
            if (!read_decimal(part + name_length + 1, length - name_length - 1, max, number))
                return "is not a whole number in the allowed range";
            found = true;
        }
        part += length + (part[length] == '&');
    }
    return found ? NULL : "is missing";
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"}, {400, "Bad Request"}, {404, "Not Found"}, {405, "Method Not Allowed"},
        {408, "Request Timeout"}, {411, "Length Required"}, {413, "Content Too Large"},
        {417, "Expectation Failed"}, {431, "Request Header Fields Too Large"},
        {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Unknown";
}

size_t http_write(char *out, size_t size, const struct http_response *response, const char *served_by,
                  bool keep_alive, bool is_head)
{
    int length = snprintf(out, size,
                          "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nX-Served-By: %s\r\n"
                          "Cache-Control: no-store\r\nConnection: %s\r\n%s%s%s\r\n%s",
                          response->status, reason_of(response->status),
                          response->type == NULL ? "text/plain; charset=utf-8" : response->type,
                          strlen(response->body), served_by, keep_alive ? "keep-alive" : "close",
                          response->allow == NULL ? "" : "Allow: ", response->allow == NULL ? "" : response->allow,
                          response->allow == NULL ? "" : "\r\n", is_head ? "" : response->body);
    return length < (int)size ? (size_t)length : size - 1;
}
