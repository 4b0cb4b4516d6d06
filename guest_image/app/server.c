#include "server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "log.h"
#include "routes.h"

#define HOLD_MS 1000
#define HOLD_TICK_US 2000
#define MAX_CONNECTIONS 512
#define STACK_BYTES (64 * 1024)
#define IDLE_TIMEOUT_MS 60000   /* between two requests of one connection */
#define REQUEST_TIMEOUT_MS 10000 /* for a head or a body to arrive whole */
#define FAREWELL_MS 500          /* for the peer to read the last response */

struct connection {
    int fd;
    size_t used; /* bytes of data that are not consumed yet */
    char data[HTTP_MAX_HEAD_BYTES];
};

static _Atomic(const char *) server_name;
static atomic_bool is_closed;
static atomic_int sockets[MAX_CONNECTIONS]; /* descriptor + 1 of each connection, 0: free */
static atomic_bool is_draining;
static atomic_int in_flight, connections;
static atomic_llong last_work_ms = INT32_MIN; /* never */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Append what has arrived. Returns > 0, 0 at the peer's end or on an error, -1 when the deadline has passed. */
static ssize_t receive(struct connection *connection, int64_t deadline_ms)
{
    struct pollfd waiting = {.fd = connection->fd, .events = POLLIN};
    int64_t left_ms = deadline_ms - now_ms();
    if (left_ms <= 0 || poll(&waiting, 1, (int)left_ms) == 0)
        return -1;
    ssize_t count = recv(connection->fd, connection->data + connection->used,
                         sizeof connection->data - connection->used, 0);
    if (count <= 0)
        return 0;
    connection->used += (size_t)count;
    return count;
}

static void consume(struct connection *connection, size_t count)
{
    connection->used -= count;
    memmove(connection->data, connection->data + count, connection->used);
}

static bool send_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t count = send(fd, data, length, MSG_NOSIGNAL);
        if (count <= 0)
            return false;
        data += count;
        length -= (size_t)count;
    }
    return true;
}

static bool respond(int fd, const struct http_response *response, bool keep_alive, bool is_head)
{
    char out[2048];
    return send_all(fd, out, http_write(out, sizeof out, response, atomic_load(&server_name), keep_alive, is_head));
}

static void refuse(int fd, int status, const char *reason)
{
    struct http_response response = {.status = status};
    snprintf(response.body, sizeof response.body, "%s\n", reason);
    respond(fd, &response, false, false);
}

/* Return the length of a whole head, or 0 when the connection is to end. */
static size_t wait_for_head(struct connection *connection, int64_t deadline_ms)
{
    size_t length;
    while ((length = http_head_length(connection->data, connection->used)) == 0) {
        if (connection->used == sizeof connection->data) {
            refuse(connection->fd, 431, "the request head is longer than 8192 bytes");
            return 0;
        }
        ssize_t count = receive(connection, deadline_ms);
        if (count < 0)
            refuse(connection->fd, 408, "the request did not arrive within 10 s");
        if (count <= 0)
            return 0;
    }
    return length;
}

/* Read and forget the body: no path of the demo uses it. */
static bool skip_body(struct connection *connection, size_t left, int64_t deadline_ms)
{
    while (left > 0) {
        if (connection->used == 0 && receive(connection, deadline_ms) <= 0)
            return false;
        size_t part = left < connection->used ? left : connection->used;
        consume(connection, part);
        left -= part;
    }
    return true;
}

/* Answer one request, whose first bytes are there. Returns whether another may follow. */
static bool serve_request(struct connection *connection)
{
    int64_t deadline_ms = now_ms() + REQUEST_TIMEOUT_MS;
    size_t length = wait_for_head(connection, deadline_ms);
    if (length == 0)
        return false;
    char head[HTTP_MAX_HEAD_BYTES];
    memcpy(head, connection->data, length);
    consume(connection, length);
    struct http_request request;
    int status = http_read_head(head, length, &request);
    if (status != 0) {
        refuse(connection->fd, status, "the request cannot be understood");
        return false;
    }
    if (request.expects_continue && request.content_length > connection->used &&
        !send_all(connection->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25))
        return false;
    if (!skip_body(connection, request.content_length, deadline_ms))
        return false;
    for (int64_t end_ms = now_ms() + HOLD_MS; atomic_load(&is_closed) && now_ms() < end_ms;)
        usleep(HOLD_TICK_US); /* a clone takes its identity: whoever asks that early has the first right answer */
    if (atomic_load(&is_closed)) {
        refuse(connection->fd, 503, "this guest waits for its identity");
        return false;
    }
    struct service service = {atomic_load(&server_name), atomic_load(&is_draining), atomic_load(&in_flight),
                              connection->fd};
    struct http_response response = {0};
    route(&request, &service, &response);
    if (service.name != atomic_load(&server_name))
        return false; /* the guest became another meanwhile: this answer is nobody's */
    if (strcmp(request.path, "/healthz") != 0)
        atomic_store(&last_work_ms, now_ms());
    bool keep_alive = request.keep_alive && !atomic_load(&is_draining);
    return respond(connection->fd, &response, keep_alive, request.method == METHOD_HEAD) && keep_alive;
}

/* Close so that the peer gets the last response even if bytes of its own are still under way. */
static void say_farewell(struct connection *connection)
{
    shutdown(connection->fd, SHUT_WR);
    connection->used = 0;
    for (int64_t end_ms = now_ms() + FAREWELL_MS; receive(connection, end_ms) > 0;)
        connection->used = 0;
    close(connection->fd);
}

static atomic_int *note_socket(int fd)
{
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        int none = 0;
        if (atomic_compare_exchange_strong(&sockets[i], &none, fd + 1))
            return &sockets[i];
    }
    return NULL; /* never: there are as many places as connections */
}

static void *serve_connection(void *argument)
{
    struct connection connection = {.fd = (int)(intptr_t)argument};
    atomic_int *noted = note_socket(connection.fd);
    bool goes_on = true;
    while (goes_on) {
        if (connection.used == 0 && receive(&connection, now_ms() + IDLE_TIMEOUT_MS) <= 0)
            break;
        atomic_fetch_add(&in_flight, 1);
        goes_on = serve_request(&connection);
        atomic_fetch_sub(&in_flight, 1);
    }
    if (noted != NULL)
        atomic_store(noted, 0);
    say_farewell(&connection);
    atomic_fetch_sub(&connections, 1);
    return NULL;
}

static void start_connection(int fd, const pthread_attr_t *attributes)
{
    static const struct timeval send_timeout = {.tv_sec = 10};
    static const int one = 1;
    pthread_t thread;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof send_timeout);
    if (atomic_fetch_add(&connections, 1) < MAX_CONNECTIONS &&
        pthread_create(&thread, attributes, serve_connection, (void *)(intptr_t)fd) == 0)
        return;
    refuse(fd, 503, "too many connections; at most 512 are served at once");
    close(fd);
    atomic_fetch_sub(&connections, 1);
}

static void *accept_connections(void *argument)
{
    int listener = (int)(intptr_t)argument;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            start_connection(fd, &attributes);
        else if (errno != EINTR && errno != ECONNABORTED)
            usleep(10000); /* out of descriptors or memory: let some connections end */
    }
    return NULL;
}

static int listen_on(int port, int *listener)
{
    static const int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        return -1;
    *listener = fd;
    return ntohs(address.sin_port);
}

int server_start(const char *name, int port)
{
    int listener;
    pthread_t thread;
    atomic_store(&server_name, name);
    port = listen_on(port, &listener);
    if (port < 0 || pthread_create(&thread, NULL, accept_connections, (void *)(intptr_t)listener) != 0)
        return -1;
    return port;
}

void server_drain(void)
{
    atomic_store(&is_draining, true);
}

void server_close_to(const char *name)
{
    atomic_store(&is_closed, true);
    atomic_store(&server_name, name);
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        int noted = atomic_load(&sockets[i]);
        if (noted != 0)
            shutdown(noted - 1, SHUT_RDWR);
    }
}

void server_open_as(const char *name)
{
    atomic_store(&server_name, name);
    atomic_store(&is_closed, false);
}

void server_forget(void)
{
    routes_forget();
    atomic_store(&last_work_ms, INT32_MIN);
}

int64_t server_quiet_ms(void)
{
    return now_ms() - atomic_load(&last_work_ms);
}

bool server_is_idle(void)
{
    return atomic_load(&in_flight) == 0;
}
