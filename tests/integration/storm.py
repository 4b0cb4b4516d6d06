"""A process that suspends and resumes a domain again and again: two events each time, so many a second."""

import sys
import time

import libvirt

from common.clock import SystemClock

CLOCK = SystemClock()
BREATH_S = 0.005


def main(uri: str, name: str, rate: str, seconds: str) -> None:
    """Blow once a line has come in; say then how many events there were a second."""
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    print("ready", flush=True)
    sys.stdin.readline()
    begun_s, count = CLOCK.monotonic_s(), 0
    while (passed_s := CLOCK.monotonic_s() - begun_s) < float(seconds):
        if count > passed_s * float(rate):
            time.sleep(BREATH_S)
            continue
        domain.suspend()
        domain.resume()
        count += 2
    print(count / passed_s, flush=True)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
