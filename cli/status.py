"""The state of groups, domains and services: as JSON for scripts, as a table for people."""

from typing import Any

from rich.console import Group as RichGroup
from rich.table import Table
from rich.text import Text

from cli.observe import Snapshot
from cli.taking_over import way
from cli.words import local_time
from common.config import Config, Group
from common.endpoint import join_endpoint, within_reach
from common.messages import DecisionRecord, Member, Membership
from common.phases import Phase
from common.rotation import serving, why_not_serving
from common.unready import of_member, sentences

_PHASE_STYLES = {
    Phase.READY: "green",
    Phase.WARMING: "cyan",
    Phase.BOOTING: "cyan",
    Phase.CREATING: "cyan",
    Phase.DRAINING: "yellow",
    Phase.STOPPING: "yellow",
    Phase.FAILED: "bold red",
}


def status_values(config: Config, snapshot: Snapshot, digest: str = "") -> dict[str, Any]:
    """Return the status in the form that ``status --json`` prints; ``digest`` is that of the file as it is now.

    ``ready`` counts the domains that are in rotation and healthy, ``serving`` says it of each, and ``trouble`` why one
    whose phase is ready does not serve; ``unready`` is what a domain answered that readiness does not want, with a
    sentence in ``text``. Unknown is null: ``ready`` too while actuator or balancer say nothing, and
    ``domains`` is empty. ``min`` and ``max`` are the bounds in force, those of the file while the decider says nothing.
    """
    return {
        "config_digest": digest,
        "groups": [_group_values(name, group, snapshot) for name, group in config.groups.items()],
        "services": [
            {
                "name": name,
                "alive": name in snapshot.services,
                "pid": snapshot.services[name].pid if name in snapshot.services else None,
                "config_digest": snapshot.services[name].config_digest if name in snapshot.services else None,
                "note": snapshot.services[name].note if name in snapshot.services else "",
            }
            for name in config.services
        ],
    }


def endpoint_url(group: Group) -> str:
    """Return the address that clients use.

    >>> endpoint_url(Group(prefix="web-", endpoint="*:8000"))
    'http://127.0.0.1:8000/'
    """
    where = join_endpoint(*within_reach(group.endpoint))
    return f"http://{where}/" if group.protocol == "http" else f"tcp://{where}"


def _group_values(name: str, group: Group, snapshot: Snapshot) -> dict[str, Any]:
    membership, drain = snapshot.memberships.get(name), snapshot.drains.get(name)
    decision = snapshot.decisions.get(name)
    wanted = snapshot.wanted.get(name)
    traffic = snapshot.traffics.get(name)
    members = membership.members if membership else ()
    served = serving(membership, drain)
    least, most = wanted.bounds_in_force if wanted else (group.minimum, group.maximum)
    desired = decision.desired_after if decision else (membership.desired_seen if membership else None)
    return {
        "name": name,
        "desired": desired,
        "ready": None if served is None else len(served),
        "endpoint": endpoint_url(group),
        "min": least,
        "max": most,
        "mode": decision.mode if decision else None,
        "cpu_ratio": decision.evidence.cpu_ratio if decision else None,
        "request_rate": traffic.request_rate if traffic else None,
        "response_time_s": traffic.response_time_s if traffic else None,
        "last_action": decision.action if decision else None,
        "limiter": decision.limiter if decision else None,
        "why": decision.limiter_text if decision else None,
        "patience": _patience_values(decision) if decision else None,
        "blocked": membership.blocked if membership else None,
        "notes": [*(membership.notes if membership else ()), *(drain.notes if drain else ())],
        "is_waiting": membership.is_waiting if membership else None,
        "boot_p50_s": membership.boot_p50_s if membership else None,
        "lead_times": [lead.model_dump() for lead in membership.lead_times] if membership else [],
        "domains": [_domain_values(member, snapshot, name, served) for member in members],
    }


def _patience_values(decision: DecisionRecord) -> dict[str, float] | None:
    """Return the calm that a scale-in waits for since one had to be undone, and when (epoch seconds) that ends."""
    if decision.patience_left_s <= 0:
        return None
    left_s = decision.patience_left_s
    return {"calm_s": decision.patience_s, "left_s": left_s, "until_s": decision.at_s + left_s}


def _domain_values(member: Member, snapshot: Snapshot, group: str, served: frozenset[str] | None) -> dict[str, Any]:
    return {
        "name": member.name,
        "host": member.host,
        "phase": member.phase.value,
        "cpu_ratio": _cpu_ratio(member, snapshot),
        "address": member.address,
        "in_flight": _in_flight(member, snapshot, group),
        "age_s": round(member.age_s, 1),
        "protected": member.is_protected,
        "uuid": member.uuid,
        "note": member.note,
        "unready": None if member.unready is None else member.unready.model_dump() | {"text": of_member(member)},
        "tier": member.tier,
        "serving": None if served is None else member.uuid in served,
        "trouble": why_not_serving(member, snapshot.drains.get(group)),
    }


def _cpu_ratio(member: Member, snapshot: Snapshot) -> float | None:
    sample = snapshot.samples.get(member.host)
    if sample is None or member.uuid not in sample.uuids:
        return None
    return sample.cpu_ratios[sample.uuids.index(member.uuid)]


def _in_flight(member: Member, snapshot: Snapshot, group: str) -> int | None:
    drain = snapshot.drains.get(group)
    if drain is None:
        return None
    return next((backend.in_flight for backend in drain.backends if backend.uuid == member.uuid), None)


def status_view(config: Config, snapshot: Snapshot, digest: str = "", reason: str = "") -> RichGroup:
    """Return the status for a terminal; ``reason`` is why nobody answers."""
    values = status_values(config, snapshot, digest)
    tables: list[Table | Text] = []
    for group in values["groups"]:
        tables += _group_view(group, snapshot.memberships.get(group["name"]))
    tables.append(_services_view(values["services"]))
    tables += [Text(line, style="yellow") for line in _remarks(config, values["services"], digest)]
    tables += [Text(reason, style="red")] if reason else []
    return RichGroup(*tables)


def _group_view(group: dict[str, Any], membership: Membership | None) -> list[Table | Text]:
    head = Text.assemble(
        (f"{group['name']}", "bold"),
        f"  desired {_show(group['desired'])}  ready {_show(group['ready'])}  bounds {group['min']}..{group['max']}"
        f"  mode {_show(group['mode'])}  cpu {_percent(group['cpu_ratio'])}"
        f"  {_rate(group['request_rate'])}  {group['endpoint']}",
    )
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for column in ("domain", "host", "phase", "cpu", "in flight", "address", "age"):
        table.add_column(column, justify="right" if column in ("cpu", "in flight", "age") else "left")
    for domain in group["domains"]:
        table.add_row(
            domain["name"] + (" (protected)" if domain["protected"] else ""),
            domain["host"],
            Text(_phase(domain), style=_phase_style(domain)),
            _percent(domain["cpu_ratio"]),
            _show(domain["in_flight"]),
            _show(domain["address"]),
            _age(domain["age_s"]),
        )
    rows: list[Table | Text] = [head, table]
    if membership is None:
        rows.append(Text("the actuator does not answer: domains unknown", style="red"))
    if group["blocked"]:
        what, style = ("waiting", "dim") if group["is_waiting"] else ("blocked", "yellow")
        rows.append(Text(f"{what}: {group['blocked']}", style=style))
    rows += [Text(f"not ready: {text}", style="yellow") for text in (sentences(membership) if membership else ())]
    if group["lead_times"]:
        rows.append(Text(f"decision to rotation: {_leads(group['lead_times'])}", style="dim"))
    rows += [Text(f"note: {note}", style="dim") for note in group["notes"]]
    if group["patience"]:
        rows.append(Text(_patience(group["name"], group["patience"]), style="yellow"))
    if group["why"]:
        rows.append(Text(f"{group['last_action']}: {group['why']}", style="dim"))
    return [*rows, Text("")]


def _patience(name: str, values: dict[str, float]) -> str:
    """Return in one line why a scale-in takes longer than the policies ask for, until when, and what ends it."""
    return (
        f"patience: a scale-in had to be undone, so the next one waits for a calm of {_age(values['calm_s'])} "
        f"until {local_time(values['until_s'])} ({_age(values['left_s'])} left); autoscaler patience {name} --reset"
    )


def _leads(leads: list[dict[str, Any]]) -> str:
    """Return the measured lead times in one line."""
    several = len({lead["host"] for lead in leads}) > 1
    return "; ".join(
        f"{lead['tier'] or 'cold'}{' on ' + lead['host'] if several else ''} p50 {_brief(lead['p50_s'])}, "
        f"p95 {_brief(lead['p95_s'])} (n={lead['n']})"
        for lead in leads
    )


def _brief(duration_s: float) -> str:
    return f"{1000 * duration_s:.0f} ms" if duration_s < 1 else f"{duration_s:.1f} s"


def _phase_style(domain: dict[str, Any]) -> str:
    return "bold red" if domain["trouble"] else _PHASE_STYLES.get(Phase(domain["phase"]), "")


def _phase(domain: dict[str, Any]) -> str:
    """Return the phase; with it why a ready one does not serve, or how one waits: in standby, or beyond desired."""
    if domain["trouble"]:
        return f"{domain['phase']}, but {domain['trouble']}"
    is_waiting = domain["phase"] == Phase.STANDBY.value or domain["tier"] == "running"
    return f"{domain['phase']} ({domain['tier']})" if is_waiting and domain["tier"] else str(domain["phase"])


def _services_view(services: list[dict[str, Any]]) -> Text:
    text = Text("services  ", style="dim")
    for service in services:
        alive = service["alive"]
        text.append(f"{service['name']} {service['pid'] if alive else 'no answer'}  ", "green" if alive else "bold red")
    return text


def _remarks(config: Config, services: list[dict[str, Any]], digest: str) -> list[str]:
    """Return what an operator should know of the services: what they note, and who runs with another configuration."""
    lines = [f"{service['name']}: {service['note']}" for service in services if service["note"]]
    others = [service["name"] for service in services if service["config_digest"] not in (None, "", digest)]
    if others and digest:
        lines.append(
            f"the configuration has changed (digest {digest}) since {', '.join(others)} read it: {way(config)}"
        )
    return lines


def _show(value: object) -> str:
    return "?" if value is None else str(value)


def _percent(ratio: float | None) -> str:
    return "?" if ratio is None else f"{100 * ratio:.0f} %"


def _rate(rate: float | None) -> str:
    return "? req/s" if rate is None else f"{rate:.1f} req/s"


def _age(age_s: float) -> str:
    if age_s < 120:
        return f"{age_s:.0f} s"
    return f"{age_s / 60:.0f} min" if age_s < 7200 else f"{age_s / 3600:.0f} h"
