/* Who this guest is, and how a clone becomes somebody else before it serves. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <stddef.h>

#include "settings.h"

/* Take the machine-id from the domain's UUID. */
void identity_begin(void);

/* From now on: without a link serve nobody; at a new link take the identity that QEMU tells, then serve again. */
void identity_follow_link(struct settings *settings);

/* Write what the system itself says about its identity, as JSON. */
void identity_describe(const char *name, char *out, size_t size);

#endif
