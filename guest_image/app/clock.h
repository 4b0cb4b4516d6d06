/* The wall clock of a guest that has slept. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

/* Milliseconds of the wall clock since 1970. */
int64_t clock_now_ms(void);

/* Set the wall clock by the host at `gateway` (an ICMP timestamp request); where it does not answer, to the later of
 * `known_ms` (true at the call; 0: unknown) and the real-time clock, which takes up to a second to be read exactly. */
void clock_set(const char *gateway, int64_t known_ms);

#endif
