"""A process that suspends and resumes a domain again and again: two events each time, so many a second."""

import sys
import time
from typing import Any, Final

import libvirt

from common.clock import SystemClock

CLOCK: Final = SystemClock()
BREATH_S: Final = 0.005
MORE: Final = 1.3
GUSTS: Final = 6


def main(uri: str, name: str, rate: str, gust_s: str) -> None:
    """Blow once a line has come in; say how many events there were a second in the last gust.

    A gust that a busy machine made weaker than ``rate`` is followed by another.
    """
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    print("ready", flush=True)
    sys.stdin.readline()
    blown = 0.0
    for _ in range(GUSTS):
        blown = gust(domain, MORE * float(rate), float(gust_s))
        if blown >= float(rate):
            break
    print(blown, flush=True)
    connection.close()


def gust(domain: Any, rate: float, seconds: float) -> float:
    """Blow at most so many events a second, for so long; return how many there were a second."""
    begun_s, count = CLOCK.monotonic_s(), 0
    while (passed_s := CLOCK.monotonic_s() - begun_s) < seconds:
        if count > passed_s * rate:
            time.sleep(BREATH_S)
            continue
        domain.suspend()
        domain.resume()
        count += 2
    return count / passed_s


if __name__ == "__main__":
    main(*sys.argv[1:])
