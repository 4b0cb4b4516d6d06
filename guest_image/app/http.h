/* HTTP/1.x as the demo needs it: reads the head of one request, writes one response. No I/O. */
#ifndef HTTP_H
#define HTTP_H

#include <stdbool.h>
#include <stddef.h>

#define HTTP_MAX_HEAD_BYTES 8192
#define HTTP_MAX_BODY_BYTES 65536

enum http_method { METHOD_GET, METHOD_HEAD, METHOD_POST, METHOD_OTHER };

struct http_request {
    enum http_method method;
    const char *path;  /* without the query */
    const char *query; /* what follows '?', or "" */
    size_t content_length;
    bool keep_alive;
    bool expects_continue;
};

struct http_response {
    int status;
    const char *type;  /* media type; NULL: text/plain */
    const char *allow; /* value of Allow for a 405, or NULL */
    char body[512];
};

/* Return the length of the head in `data` including the empty line, or 0 while it is incomplete. */
size_t http_head_length(const char *data, size_t length);

/* Read a whole head, in place. Returns 0, or the status to refuse it with; then the connection must end. */
int http_read_head(char *head, size_t length, struct http_request *request);

/* Find the decimal number `name=` in a query, 0 to `max`. Returns NULL, or why there is none. */
const char *http_query_number(const char *query, const char *name, unsigned long max, unsigned long *number);

/* Write the response as bytes; returns how many. A HEAD gets the header of a GET and no body. */
size_t http_write(char *out, size_t size, const struct http_response *response, const char *served_by,
                  bool keep_alive, bool is_head);

#endif
