"""The matrix of faults: what is injected, what must hold. ``docs/faults.md`` is this table with what a run measured.

A row is kept if every test of it passes, and open as long as ``OPEN`` says what no test of it shows.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Row:
    """One fault; ``must`` says what holds while it lasts and after it, with its bounds."""

    number: int
    fault: str
    must: str


SECTIONS: Final = {
    "Processes": (
        Row(
            1,
            "the monitor is killed",
            "restarted within 2 s; after 3 ticks without samples nothing is scaled in; a rate is known after 2 samples, and the counter that begins anew is no spike",
        ),
        Row(
            2,
            "the decider is killed",
            "the size stays, no GET fails; after its restart it observes for one window before it acts, and its cool-downs go on",
        ),
        Row(
            3,
            "the actuator is killed between the definition of a domain and its start",
            "the next one finishes or removes what it finds; there is no second domain",
        ),
        Row(
            4,
            "the actuator is killed at each of its effects on libvirt in turn",
            "each time the same end as without the fault",
        ),
        Row(
            5,
            "the balancer is killed",
            "HAProxy serves on, no GET fails; new domains wait; the next one reads HAProxy's slots and goes on",
        ),
        Row(6, "the plotter is killed, has no display, or no space for its picture", "nothing else notices"),
        Row(
            7,
            "HAProxy's worker is killed",
            "requests in flight are lost, and those of 0.2 s; the slots come back from the state file and are verified",
        ),
        Row(
            8,
            "HAProxy's master, or supervisord, is killed",
            "what it started ends or is taken over; nothing runs twice",
        ),
        Row(
            9,
            "the decider is stopped for 60 s and goes on",
            "it finds its inputs old, drops what waits and observes anew; no burst of decisions",
        ),
        Row(
            10,
            "the balancer is stopped for 60 s while a domain joins",
            "the domain gets no traffic until the balancer goes on",
        ),
        Row(11, "all services are killed for 10 min", "no GET fails; HAProxy takes dead domains out by itself"),
        Row(
            12,
            "the services start in any order, and any one is missing",
            "each waits and says for what; none ends again and again",
        ),
        Row(
            13,
            "a second decider, actuator or balancer is started",
            "it ends with code 75 within 1 s; the first one is unaffected",
        ),
        Row(
            14,
            "a service ends at each start",
            "it is tried again at a steady pace of some seconds, without end; the others work; an alert can see it",
        ),
        Row(
            15,
            "a service meets its limit of memory or of open files",
            "it ends with an error and is started again; it is never half dead",
        ),
        Row(
            16,
            "the clock jumps by an hour, either way",
            "decisions and deadlines go on as before; nothing expires at once",
        ),
        Row(17, "SIGTERM during a drain", "the service ends within its time; the drain goes on with the next start"),
    ),
    "Bus": (
        Row(18, "no sample of the monitor reaches the decider", "after 3 ticks nothing is scaled in"),
        Row(
            19,
            "30 % of all messages are lost, doubled or out of order",
            "the decisions are those without loss, as late as the first and the last sample of their window that arrive, and at most one tick more; the gap counter rises",
        ),
        Row(
            20,
            "a subscriber reads nothing for 60 s",
            "the publisher's memory stays bounded; afterwards the newest state counts",
        ),
        Row(
            21,
            "messages that are malformed, cut, of 20 MB, of a later version, or with NaN and negative figures",
            "dropped, counted, the sender named; the process lives and its memory stays bounded",
        ),
        Row(22, "an old message is played again", "ignored"),
        Row(23, "a publisher or a subscriber without the right key", "refused and logged"),
        Row(24, "the thread that checks keys is dead", "nobody is let in"),
        Row(25, "a key is changed, or authorised late", "its owner is connected within 5 s, without a restart"),
        Row(
            26,
            "a socket file is left over, or is somebody else's",
            "left over: cleaned away by whoever holds the lock; somebody else's: a clear error",
        ),
        Row(27, "the decider is started after the last event", "it has the whole state within one tick"),
    ),
    "Metrics": (
        Row(
            28,
            "one member is missing from the samples, its host answers",
            "it counts as busy against scale-in and as idle against scale-out; no flapping",
        ),
        Row(
            29,
            "more than 45 % of the members are missing or unhealthy",
            "no scale-in, an alert, and whoever can serves on; where figures are missing no replacement, where checks fail [one at a time](operating.md#sick-or-only-overloaded)",
        ),
        Row(30, "the samples come back after a gap, with zeros", "no scale-in before one whole window"),
        Row(31, "a CPU counter begins anew", "the rate is unknown for that tick, never negative and never huge"),
        Row(32, "a CPU counter stands still although the domain runs", "told as stale, not as idle"),
        Row(33, "little CPU, but a queue, late answers or errors", "no scale-in; a queue scales out"),
        Row(34, "new domains are busy booting", "their CPU does not count; no cascade"),
        Row(
            35,
            "load around the threshold, with periods from 2 ticks to 2 windows",
            "at most 2 changes of direction in an hour",
        ),
        Row(
            36,
            "ten times the load at once",
            "domains are created at most as fast as the bounds allow; 503s are bounded",
        ),
        Row(37, "HAProxy's figures cannot be had, the CPU's can", "no scale-in"),
    ),
    "libvirt and hosts": (
        Row(
            38,
            "libvirtd restarts",
            "connected again within 5 s, callbacks registered anew, all domains listed; running domains are untouched",
        ),
        Row(39, "libvirtd is stopped", "calls end at their deadline; its domains keep their traffic"),
        Row(
            40,
            "one QEMU is stopped",
            "the figures of the others still take at most 1 s; its own are old, not zero; out of rotation within 1.5 s; replaced; its end delays nobody",
        ),
        Row(41, "a QEMU is killed", "out of rotation within 0.25 s, no GET fails, replaced, its disk removed"),
        Row(
            42,
            "the application in a guest is dead, the domain runs",
            "its health check tells; replaced after `unhealthy_grace_s`",
        ),
        Row(
            43,
            "a guest shuts itself down, or is paused",
            "by [what its state means](states.md): shut down is replaced; paused by its owner or by libvirt is out of rotation until it runs; paused by an error of its disk is resumed when there is room",
        ),
        Row(
            44,
            "domains cannot be created",
            "tried again, less and less often; bounded work at once; nothing left behind; told",
        ),
        Row(
            45,
            "a creation is told as failed, and had succeeded",
            "the domain is taken over at the next look; no second one",
        ),
        Row(
            46,
            "a domain vanishes between a look and a call",
            "whoever is to be gone is gone; a snapshot of it is not taken for made",
        ),
        Row(
            47,
            "a host is down or cannot be reached",
            "libvirt gone and checks pass: nothing is replaced, nothing scaled in",
        ),
        Row(48, "a host comes back, its old domains run", "known again by their records; what is too many is drained"),
        Row(49, "the host reboots", "disks of domains that are gone are removed; nothing starts by itself"),
        Row(
            50,
            "somebody destroys, undefines, starts or renames domains, or has ones with names like ours",
            "theirs are never touched; ours converge",
        ),
        Row(51, "names and values in the file that would break XML", "refused when the file is read"),
        Row(52, "a thousand events a second from libvirt", "merged; no tick is more than one tick late"),
        Row(53, "events of libvirt are lost", "the next full list repairs it"),
    ),
    "Storage and network": (
        Row(
            54,
            "the pool is full",
            "no creation, tried again less and less often; only what is our own and half made is removed; who runs, runs",
        ),
        Row(55, "the base image is changed, broken or missing", "nothing is created from it; disks on it keep it"),
        Row(56, "a disk is left over after a crash", "removed after its grace, if no domain refers to it"),
        Row(
            57,
            "leases of the past fill the address range",
            "cannot happen with reservations: who has no slot is told, nothing is created without end",
        ),
        Row(
            58,
            "the address of a dead domain answers as another one",
            "its identity is asked before it gets traffic; no slot is given away before its counters are 0",
        ),
        Row(59, "an address or a MAC is there twice", "never given twice; found by the identity"),
        Row(
            60,
            "one member's packets are dropped, all or 30 %, or its tap is gone",
            "out of rotation after 3 failed checks, without flapping; no GET fails but those in flight on it",
        ),
        Row(61, "packets to all members are dropped", "as row 29: nobody is removed"),
    ),
    "HAProxy's control": (
        Row(
            62,
            "the admin socket is gone, refuses, or hangs for 10 s",
            "asked again, with a deadline; requests are served on",
        ),
        Row(
            63,
            "an operator reloads HAProxy while domains come and go",
            "noticed; every slot is verified before the next action; no request is lost",
        ),
        Row(64, "HAProxy comes back without its state file", "every slot is in order again within 1 s"),
        Row(
            65,
            "there are more domains than slots",
            "those without a slot are told; the decider asks for no more; no reload",
        ),
        Row(66, "a slot is changed by hand", "noticed and restored"),
        Row(67, "every member is down", "503 at once; replaced or scaled out, never in"),
        Row(
            68,
            "long requests at scale-in: 2 s, a WebSocket of 10 min",
            "the drain waits for them, up to `drain_timeout_s`; what is cut then is counted and told",
        ),
    ),
    "Configuration and plan": (
        Row(
            69,
            "reload of a file that is no TOML, or has min > max or an unknown key",
            "refused with line and field; the old one stays in force",
        ),
        Row(70, "an empty plan, or one of an older generation", "never applied"),
        Row(71, "`max` is lowered far below what runs", "shrinks at the rate of removal, down to `max`"),
        Row(
            72,
            "processes of two versions at once",
            "what is unknown in a message is passed over; an unknown version holds the size",
        ),
    ),
}
ROWS: Final = {row.number: row for rows in SECTIONS.values() for row in rows}

# What no test of a row shows, and why.
OPEN: Final[dict[int, str]] = {
    36: "no 503 came where the machine was quiet; GETs that got 504 after `response_timeout_s` instead are not bounded by the test",
}
