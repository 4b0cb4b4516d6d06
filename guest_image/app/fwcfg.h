/* What QEMU tells its guest through the fw_cfg device. A restored guest reads what its new QEMU says, not what the
 * old one said: so a clone learns who it is. See "Clones" in docs/clones.md. */
#ifndef FWCFG_H
#define FWCFG_H

#include <stdbool.h>
#include <stddef.h>

#define FWCFG_UUID_BYTES 16

/* Read the domain's UUID; returns whether there is one. */
bool fwcfg_uuid(unsigned char uuid[FWCFG_UUID_BYTES]);

/* Read the file `name` as text, ended with a NUL; returns its length, 0 if there is none or it does not fit. */
size_t fwcfg_text(const char *name, char *text, size_t size);

#endif
