/* The demo application. In a guest it is the whole user space: first process, network, power button, HTTP
 * server. Anywhere else it is an ordinary process with the same settings as arguments and SIGTERM for a button. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "identity.h"
#include "log.h"
#include "server.h"
#include "settings.h"

#define TICK_MS 20
#define QUIET_MS 3000 /* without a request for so long, traffic is taken to be off already */

static bool is_guest;

static bool stop_signal(int timeout_ms)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (timeout_ms < 0)
        return sigwaitinfo(&signals, NULL) > 0;
    struct timespec timeout = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L};
    return sigtimedwait(&signals, NULL, &timeout) > 0;
}

/* Wait for a shutdown request, for ever if `timeout_ms` is negative. */
static bool shutdown_asked(int timeout_ms)
{
    return is_guest ? guest_power_button(timeout_ms) : stop_signal(timeout_ms);
}

static void read_arguments(struct settings *settings, int count, char **words)
{
    strcpy(settings->name, "local");
    for (int i = 1; i < count; i++) {
        const char *reason = settings_read_word(settings, words[i]);
        if (reason == NULL)
            continue;
        fprintf(stderr, "%s %s\n", words[i], reason);
        exit(2);
    }
}

static void end(int status)
{
    if (is_guest)
        guest_power_off();
    exit(status);
}

/* Answer 503 to health checks until they have been seen and nothing is in flight; a second request cuts it short. */
static void drain(int linger_ms)
{
    server_drain();
    log_line("shutdown asked: draining");
    if (server_quiet_ms() > QUIET_MS)
        linger_ms = 0; /* nobody's request could be lost */
    for (int waited_ms = 0; waited_ms < linger_ms || !server_is_idle(); waited_ms += TICK_MS)
        if (shutdown_asked(TICK_MS)) {
            log_line("shutdown asked again: ending at once");
            return;
        }
    log_line("drained");
}

static void prepare(struct settings *settings, int count, char **words)
{
    settings_init(settings);
    if (!is_guest) {
        stop_signal(0); /* blocks the signals in every thread to come */
        read_arguments(settings, count, words);
        return;
    }
    guest_begin(settings);
    if (settings->probe) {
        log_line("probe: ok");
        guest_power_off();
    }
    guest_load_modules("early");
    guest_watch_power_button();
    guest_configure_network(settings);
    identity_begin();
}

int main(int count, char **words)
{
    static struct settings settings;
    is_guest = getpid() == 1 && strcmp(words[0], "/init") == 0;
    prepare(&settings, count, words);
    int port = server_start(settings.name, settings.port);
    if (port < 0) {
        log_line("port %d cannot be served: %s", settings.port, strerror(errno));
        end(1);
    }
    log_line("serving as %s on port %d", settings.name, port);
    if (is_guest) {
        guest_announce();
        guest_load_modules("late");
        identity_follow_link(&settings);
    }
    while (!shutdown_asked(-1))
        continue;
    drain(settings.linger_ms);
    end(0);
}
