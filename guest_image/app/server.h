/* The demo's HTTP server: one thread a connection, so that a long /compute never holds up /healthz. */
#ifndef SERVER_H
#define SERVER_H

#include <stdbool.h>
#include <stdint.h>

/* Listen on `port` (0: any) and serve in the background as `name`. Returns the port, or -1. */
int server_start(const char *name, int port);

/* From now on /healthz answers 503 and every response ends its connection. */
void server_drain(void);

/* Answer 503 to everything from now on, a second after it was asked and under another name, unless the server is opened
 * by then; end the connections that stand. */
void server_close_to(const char *name);

/* Serve again, as `name`. */
void server_open_as(const char *name);

/* Begin the counters anew: what was counted is another's. */
void server_forget(void);

/* Milliseconds since the last request that was no health check. */
int64_t server_quiet_ms(void);

/* True when no request is being read, computed or answered. */
bool server_is_idle(void);

#endif
