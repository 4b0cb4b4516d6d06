/* What the program does when it is the first process of a guest. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "settings.h"

/* Mount /dev and /proc and read the kernel command line. */
void guest_begin(struct settings *settings);

/* Load the modules of /modules/<stage> in the order of their file names. */
void guest_load_modules(const char *stage);

/* Bring the network up: the address of the settings, or DHCP, which may also give the name. */
void guest_configure_network(struct settings *settings);

/* Whether the network interface has a carrier. */
bool guest_has_link(void);

/* Give up a static address, so that nothing is sent under it. */
void guest_forget_address(const struct settings *settings);

/* Take the name, the static address and the MAC of the settings. */
void guest_use_address(const struct settings *settings);

/* Tell everybody on the link our address and MAC. Whoever waits for us on the host has asked for the MAC in vain while the
 * guest booted, and asks again a second later only. */
void guest_announce(void);

/* Write the MAC and the address of the interface, "" where it has none. */
void guest_describe_interface(char *mac, size_t mac_size, char *address, size_t address_size);

/* From now on a press of the ACPI power button is kept until it is asked for. */
void guest_watch_power_button(void);

/* Wait up to `timeout_ms` for the ACPI power button; returns whether it was pressed. */
bool guest_power_button(int timeout_ms);

void guest_power_off(void) __attribute__((noreturn));

#endif
