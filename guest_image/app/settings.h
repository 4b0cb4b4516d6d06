/* What the actuator tells a guest: words `autoscaler.KEY=VALUE` on the kernel command line, or as
 * arguments when the same program runs as an ordinary process. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>

struct settings {
    char name[64];    /* domain name; empty: take the DHCP host name */
    char address[32]; /* ADDRESS/PREFIX_LENGTH; empty: DHCP */
    char gateway[16]; /* empty: no default route */
    int port;         /* 0: any free port, printed at start */
    int linger_ms;    /* after a shutdown request: how long /healthz says 503 if there is traffic */
    char mac[18];     /* of the interface, for a clone; empty: as it is */
    long long epoch_ms; /* the host's clock when a clone was made; 0: unknown */
    bool is_template; /* to be saved as a snapshot: keep the memory small */
    bool probe;       /* say that the guest boots, power off, nothing else */
};

void settings_init(struct settings *settings);

/* Take over one word; words of others are ignored. Returns NULL, or why the value is refused. */
const char *settings_read_word(struct settings *settings, const char *word);

/* Take over every word of a kernel command line; refused values are logged and skipped. */
void settings_read_line(struct settings *settings, char *line);

#endif
