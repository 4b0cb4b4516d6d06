#include "routes.h"

#include "identity.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MODULUS 1021
#define POLITE 10
#define STEPS_BETWEEN_LOOKS 1000000UL

static atomic_ulong gets, posts; /* finished and unfinished /compute requests, by method */

static void answer_error(struct http_response *response, int status, const char *name, const char *reason,
                         unsigned long max)
{
    response->status = status;
    snprintf(response->body, sizeof response->body, "%s %s; allowed: 0 to %lu\n", name, reason, max);
}

/* Whether nobody waits for the answer any more: the client has closed its side, or the connection broke. */
static bool client_is_gone(int client)
{
    char byte;
    ssize_t count = recv(client, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* 2^n mod 1021 the long way, one multiplication a step: the cost is what the demo is about. Given up when the client
   leaves: under overload, answers that nobody reads would keep the CPU from those that somebody waits for. */
static bool power_of_two(unsigned long n, int client, unsigned *result)
{
    *result = 1;
    for (unsigned long done = 0; done < n;) {
        unsigned long stop = n - done < STEPS_BETWEEN_LOOKS ? n : done + STEPS_BETWEEN_LOOKS;
        unsigned value = *result;
        for (; done < stop; done++)
            value = value * 2 % MODULUS;
        *result = value;
        if (done < n && client_is_gone(client))
            return false;
    }
    return true;
}

static void compute(const struct http_request *request, const struct service *service,
                    struct http_response *response)
{
    unsigned long n;
    unsigned result;
    const char *reason = http_query_number(request->query, "n", MAX_N, &n);
    if (reason != NULL) {
        answer_error(response, 400, "n", reason, MAX_N);
        return;
    }
    atomic_fetch_add(request->method == METHOD_POST ? &posts : &gets, 1);
    /* On Linux a nice value belongs to one thread: health checks go before computing. */
    setpriority(PRIO_PROCESS, (id_t)gettid(), POLITE);
    if (power_of_two(n, service->client, &result))
        snprintf(response->body, sizeof response->body, "%u\n", result);
    else
        response->status = 408; /* nobody is there to read it */
    setpriority(PRIO_PROCESS, (id_t)gettid(), 0);
}

static void slow(const struct http_request *request, const struct service *service, struct http_response *response)
{
    (void)service;
    unsigned long ms;
    const char *reason = http_query_number(request->query, "ms", MAX_SLOW_MS, &ms);
    if (reason != NULL) {
        answer_error(response, 400, "ms", reason, MAX_SLOW_MS);
        return;
    }
    struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
    snprintf(response->body, sizeof response->body, "slept %lu ms\n", ms);
}

static void healthz(const struct http_request *request, const struct service *service,
                    struct http_response *response)
{
    (void)request;
    response->status = service->is_draining ? 503 : 200;
    snprintf(response->body, sizeof response->body, "%s\n", service->name);
}

static void stats(const struct http_request *request, const struct service *service, struct http_response *response)
{
    (void)request;
    response->type = "application/json";
    snprintf(response->body, sizeof response->body,
             "{\"name\": \"%s\", \"compute_get\": %lu, \"compute_post\": %lu, \"in_flight\": %d, \"draining\": %s}\n",
             service->name, atomic_load(&gets), atomic_load(&posts), service->in_flight,
             service->is_draining ? "true" : "false");
}

static void identity(const struct http_request *request, const struct service *service,
                     struct http_response *response)
{
    (void)request;
    response->type = "application/json";
    identity_describe(service->name, response->body, sizeof response->body);
}

static void welcome(const struct http_request *request, const struct service *service,
                    struct http_response *response)
{
    (void)request;
    snprintf(response->body, sizeof response->body, "%s: try /compute?n=1000000, /healthz, /stats, /slow?ms=1000\n",
             service->name);
}

static const struct {
    const char *path;
    bool allows_post;
    void (*answer)(const struct http_request *, const struct service *, struct http_response *);
} routes[] = {
    {"/", false, welcome},     {"/compute", true, compute}, {"/healthz", false, healthz},
    {"/identity", false, identity}, {"/slow", true, slow}, {"/stats", false, stats},
};

void routes_forget(void)
{
    atomic_store(&gets, 0);
    atomic_store(&posts, 0);
}

void route(const struct http_request *request, const struct service *service, struct http_response *response)
{
    response->status = 200;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (strcmp(request->path, routes[i].path) != 0)
            continue;
        if (request->method == METHOD_OTHER || (request->method == METHOD_POST && !routes[i].allows_post)) {
            response->status = 405;
            response->allow = routes[i].allows_post ? "GET, HEAD, POST" : "GET, HEAD";
            snprintf(response->body, sizeof response->body, "allowed: %s\n", response->allow);
            return;
        }
        routes[i].answer(request, service, response);
        return;
    }
    response->status = 404;
    snprintf(response->body, sizeof response->body, "no such path; known: / /compute /healthz /identity /slow /stats\n");
}
