"""Whether this machine can carry the services: ports, HAProxy, clock, file descriptors, the services themselves."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cli.doctor.facts import ClockFacts, HaproxyFacts, PortFacts, ServiceFacts
from cli.doctor.finding import Finding, error, ok, skipped, warning

FDS_EACH: Final = 2  # HAProxy: one towards the client, one towards the domain
FDS_RESERVED: Final = 300
MIN_HAPROXY: Final = (2, 4)
TESTED_HAPROXY: Final = (2, 6)
EARLIEST_S: Final = 1_735_689_600.0  # 2025-01-01: older than this program
FUTURE_TOLERANCE_S: Final = 60.0


def judge_ports(ports: Sequence[PortFacts]) -> list[Finding]:
    """Return for each address whether it is free for us, or ours already."""
    return [_judge_port(port) for port in ports]


def _judge_port(port: PortFacts) -> Finding:
    if port.is_ours:
        return ok("ports", port.key, f"{port.address} is held by {port.holder}, as it should be")
    mend = f"set {port.key} to another, or stop what holds it: ss -ltnp 'sport = :{port.address.rpartition(':')[2]}'"
    if port.holder:
        what = f"{port.address} is taken by {port.holder}"
        return error("ports", port.key, what, f"{port.service} cannot listen there", mend)
    if port.is_expected:
        name = "HAProxy" if port.service == "haproxy" else port.service
        known = f", although {name} runs" if port.is_running else f": {name} does not run, or has not come up"
        what = f"nobody listens at {port.address}{known}"
        return error("ports", port.key, what, "clients get 'connection refused'", "make up   # and look into its log")
    if port.bind_error:
        what = f"{port.address} cannot be used: {port.bind_error}"
        return error("ports", port.key, what, f"{port.service} cannot listen there", mend)
    return ok("ports", port.key, f"{port.address} is free")


def judge_haproxy(facts: HaproxyFacts, wants_metrics: bool) -> list[Finding]:
    """Return whether HAProxy is there, new enough, and takes our configuration."""
    install = "apt-get install haproxy   # make up does it"
    if facts.path is None:
        why = "HAProxy carries all traffic: without it no endpoint answers"
        return [error("haproxy", "", "it is not installed", why, install)]
    version = haproxy_version(facts.version_text)
    if version is None:
        why = "nobody knows whether it can do what we ask of it"
        return [warning("haproxy", "", f"{facts.path} does not tell its version", why, f"{facts.path} -v")]
    return [
        _version(version),
        _configuration(facts),
        *([_metrics(facts)] if wants_metrics else []),
    ]


def _version(version: tuple[int, int, int]) -> Finding:
    said = ".".join(map(str, version))
    if version[:2] < MIN_HAPROXY:
        why = "it lacks options that keep requests from being lost"
        return error("haproxy", "", f"{said} is too old: at least 2.4 is needed", why, "install 2.6 or later")
    if version[:2] < TESTED_HAPROXY:
        why = "slots, reloads and retries are tested with 2.6 and later"
        return warning("haproxy", "", f"{said} is older than what we test with", why, "install 2.6 or later")
    return ok("haproxy", "", said)


def _configuration(facts: HaproxyFacts) -> Finding:
    if not facts.refusal:
        return ok("haproxy-config", "", "it takes our configuration")
    what = f"it refuses our configuration: {facts.refusal}"
    return error("haproxy-config", "", what, "HAProxy does not start", "change what it names in autoscaler.toml")


def _metrics(facts: HaproxyFacts) -> Finding:
    if "prometheus exporter" in facts.version_text.lower() or "+PROMEX" in facts.version_text:
        return ok("haproxy-metrics", "", "its Prometheus exporter is built in")
    what = "built without the Prometheus exporter"
    return warning("haproxy-metrics", "", what, "metrics.haproxy_listen answers nothing", 'haproxy_listen = ""')


def haproxy_version(text: str) -> tuple[int, int, int] | None:
    """Return the version that ``haproxy -vv`` prints, None if it prints none.

    >>> haproxy_version("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/")
    (2, 6, 12)
    """
    match = re.search(r"HA-?Proxy version (\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def judge_receivers(troubles: Sequence[str], count: int) -> Finding:
    """Return whether the secrets and programs of ``count`` notifications are there and fit for use."""
    if not count:
        return skipped("notifications", "", "none is configured")
    if not troubles:
        return ok("notifications", "", f"secrets and programs of {count} are there")
    why = "every attempt to tell this receiver fails; after its retries a notice is given up"
    return warning("notifications", "", "; ".join(troubles), why, "put the file there; secrets: chmod 600")


def judge_files_open(maxconn: int, open_files: int) -> Finding:
    """Return whether HAProxy may open as many connections as it is told to accept."""
    needed = maxconn * FDS_EACH + FDS_RESERVED
    if needed <= open_files:
        return ok("open-files", "", f"{open_files} allowed, {needed} needed for {maxconn} connections")
    accepts = max(10, (open_files - FDS_RESERVED) // FDS_EACH)
    return warning(
        "open-files",
        "",
        f"{open_files} open files allowed; maxconn = {maxconn} needs {needed}",
        f"HAProxy accepts {accepts} connections instead",
        f"ulimit -n {needed}   # or LimitNOFILE={needed} in the unit; or lower haproxy.maxconn",
    )


def judge_clock(facts: ClockFacts) -> Finding:
    """Return whether the wall clock can be right, and whether somebody keeps it right."""
    now = datetime.fromtimestamp(facts.epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    mend = ("timedatectl set-ntp true   # or: " if facts.has_systemd else "") + "apt-get install chrony"
    why = "schedules fire at wrong times, events and recordings carry wrong ones, certificates are refused"
    if facts.epoch_s < EARLIEST_S:
        return error("clock", "", f"it says {now}, before this program was written", why, mend)
    if facts.newest_file_s > facts.epoch_s + FUTURE_TOLERANCE_S:
        ahead_s = facts.newest_file_s - facts.epoch_s
        what = f"it says {now}, but {facts.newest_file} was written {ahead_s:.0f} s later"
        return error("clock", "", what, f"it is wrong, or was: {why}", mend)
    if facts.is_synchronised is False:
        return warning(
            "clock", "", f"{now}, and no time server keeps it right", f"nobody sees when it is off: {why}", mend
        )
    return ok("clock", "", f"{now}{', kept right by a time server' if facts.is_synchronised else ''}")


def judge_services(facts: ServiceFacts) -> list[Finding]:
    """Return whether those that should run do, and whether they run with the file as it is now."""
    if not facts.heard and facts.is_closed:
        return [skipped("services", "", facts.silence)]
    if not facts.heard and facts.silence:
        why = "what runs is not seen, and takes no orders; make up could start a second one beside it"
        mend = "autoscaler --config FILE doctor   # with the file, the keys and the user that it runs with"
        return [error("services", "", facts.silence, why, mend)]
    if not facts.heard and not facts.is_supervised:
        return [_nothing_runs(facts)]
    silent = [name for name in facts.expected if name not in facts.heard]
    old = sorted(name for name, status in facts.heard.items() if status.config_digest not in ("", facts.digest))
    found = [ok("services", "", f"{len(facts.heard)} answer: {', '.join(sorted(facts.heard))}")]
    if silent:
        found = [
            error(
                "services",
                "",
                f"no answer from {', '.join(silent)}",
                "what they do is not done; each is started again when it ends, so one that stays silent is stuck",
                "make up   # and look into <state_dir>/log/" + f"{silent[0]}.log",
            )
        ]
    if old:
        why = "they act by what the file said before"
        return [*found, warning("services-config", "", f"{', '.join(old)} run with an older file", why, facts.way)]
    return [*found, ok("services-config", "", f"all run with the file as it is now ({facts.digest})")]


def _nothing_runs(facts: ServiceFacts) -> Finding:
    if not facts.owned_running:
        return skipped("services", "", "none runs")
    return warning(
        "services",
        "",
        f"none runs, but {facts.owned_running} of our domains do",
        "nobody looks after them: no scaling, no replacement, and no traffic either where HAProxy is down too",
        "make up   # or, to remove them: make down",
    )
