/* The demo's HTTP server: one thread a connection, so that a long /compute never holds up /healthz. */
#ifndef SERVER_H
#define SERVER_H

#include <stdbool.h>

/* Listen on `port` (0: any) and serve in the background as `name`. Returns the port, or -1. */
int server_start(const char *name, int port);

/* From now on /healthz answers 503 and every response ends its connection. */
void server_drain(void);

/* True when no request is being read, computed or answered. */
bool server_is_idle(void);

#endif
