/* What each path answers. */
#ifndef ROUTES_H
#define ROUTES_H

#include "http.h"

#define MAX_N 1000000000UL
#define MAX_SLOW_MS 60000UL

/* What the answers depend on beside the request. */
struct service {
    const char *name;
    bool is_draining;
    int in_flight;
    int client; /* the connection that waits for the answer */
};

/* Count from zero again. */
void routes_forget(void);

/* Fill in the response; returns after the work is done. */
void route(const struct http_request *request, const struct service *service, struct http_response *response);

#endif
