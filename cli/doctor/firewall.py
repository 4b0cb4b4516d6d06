"""What a firewall does with packets that are forwarded, from ``nft -j`` or ``iptables -S``: pure.

Of a rule are read: which interfaces it names, whether it asks for anything else, whether it is for connections that
stand already, and what becomes of the packet. That is enough to tell whether guests at a bridge get out.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cli.doctor.facts import Chain, Rule

JUMPS: Final = ("jump", "goto")
VERDICTS: Final = ("accept", "drop", "reject", "return")
DROPS: Final = ("drop", "reject")
NEW: Final = "new"


def chains_of_nft(text: str) -> tuple[Chain, ...]:
    """Return the IPv4 chains of ``nft -j list ruleset``.

    Raises:
        ValueError: the text is not what nft prints.
    """
    entries = json.loads(text)["nftables"]
    rules: dict[tuple[str, str], list[Rule]] = {}
    for rule in (entry["rule"] for entry in entries if "rule" in entry):
        if rule["family"] in ("ip", "inet"):
            rules.setdefault((f"{rule['family']} {rule['table']}", rule["chain"]), []).append(_nft_rule(rule["expr"]))
    return tuple(
        Chain(
            table=f"{chain['family']} {chain['table']}",
            name=chain["name"],
            hook=chain.get("hook", ""),
            policy=chain.get("policy", ""),
            rules=tuple(rules.get((f"{chain['family']} {chain['table']}", chain["name"]), ())),
        )
        for chain in (entry["chain"] for entry in entries if "chain" in entry)
        if chain["family"] in ("ip", "inet")
    )


def chains_of_iptables(text: str) -> tuple[Chain, ...]:
    """Return the chains of ``iptables -S``, which lists the filter table."""
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for words in (shlex.split(line) for line in text.splitlines() if line.startswith("-")):
        match words:
            case ["-P", name, policy]:
                policies[name] = policy.lower()
            case ["-N", name]:
                policies[name] = ""
            case ["-A", name, *rest]:
                rules.setdefault(name, []).append(_iptables_rule(rest))
    return tuple(
        Chain("iptables filter", name, "forward" if name == "FORWARD" else "", policy, tuple(rules.get(name, ())))
        for name, policy in policies.items()
    )


def closed_chains(chains: Sequence[Chain], bridge: str) -> list[Chain]:
    """Return the chains that drop the first packet of a connection from ``bridge`` to elsewhere; see ``_fate``."""
    return [chain for chain in chains if chain.hook == "forward" and _drops(chain, chains, bridge)]


def has_libvirt_rules(chains: Iterable[Chain]) -> bool:
    """Return whether libvirt writes its rules into the same tables as iptables does: then it opens what it needs."""
    return any(rule.verdict.startswith("LIBVIRT_FW") for chain in chains for rule in chain.rules)


def _drops(chain: Chain, chains: Sequence[Chain], bridge: str) -> bool:
    named = {other.name: other for other in chains if other.table == chain.table}
    fate = _fate(chain, named, bridge, frozenset())
    return fate in DROPS or (fate != "accept" and chain.policy == "drop")


def _fate(chain: Chain, named: Mapping[str, Chain], bridge: str, been: frozenset[str]) -> str:
    """Return what the first rule that decides does, empty where none does.

    A rule with conditions that are not read here (addresses, ports) decides only where it accepts and names the bridge:
    libvirt's own rules name its addresses too.
    """
    for rule in chain.rules:
        if not _may_match(rule, bridge):
            continue
        is_sure = rule.is_plain and not rule.goes_out
        follows = named.get(rule.verdict)
        fate = rule.verdict
        if follows is not None:
            fate = "" if follows.name in been else _fate(follows, named, bridge, been | {chain.name})
        if fate == "accept" and (is_sure or rule.came_in == bridge or (follows is not None and not rule.goes_out)):
            return fate
        if is_sure and fate in DROPS:
            return fate
        if is_sure and fate == "return":
            return ""
    return ""


def _may_match(rule: Rule, bridge: str) -> bool:
    """Return whether the rule may match the first packet of a connection that leaves the bridge."""
    return rule.is_for_new and rule.came_in in ("", bridge) and rule.goes_out != bridge


def _nft_rule(expressions: list[dict[str, Any]]) -> Rule:
    came_in = goes_out = verdict = ""
    is_plain = is_for_new = True
    for expression in expressions:
        match = expression.get("match")
        if match is not None:
            key, right = _nft_key(match.get("left")), match.get("right")
            is_name = match.get("op") == "==" and isinstance(right, str)
            if key in ("iifname", "iif") and is_name:
                came_in = right
            elif key in ("oifname", "oif") and is_name:
                goes_out = right
            else:
                is_plain = False
                is_for_new = is_for_new and not (key == "state" and match.get("op") != "!=" and NEW not in str(right))
        elif "xt" in expression:
            is_plain = False
        verdict = _nft_verdict(expression) or verdict
    return Rule(came_in, goes_out, verdict, is_plain, is_for_new)


def _nft_key(left: Any) -> str:
    """Return what a match looks at: an interface's name or the state of a connection; empty for all else."""
    about = left.get("meta") or left.get("ct") if isinstance(left, dict) else None
    return str(about.get("key", "")) if isinstance(about, dict) else ""


def _nft_verdict(expression: Mapping[str, Any]) -> str:
    for word in VERDICTS:
        if word in expression:
            return word
    targets = [expression[jump]["target"] for jump in JUMPS if jump in expression]
    return str(targets[0]) if targets else ""


def _iptables_rule(words: Sequence[str]) -> Rule:
    came_in, goes_out, verdict = (_after(words, flag) for flag in ("-i", "-o", "-j"))
    states = _after(words, "--ctstate") or _after(words, "--state")
    read = sum(2 for found in (came_in, goes_out, verdict) if found)
    return Rule(
        came_in,
        goes_out,
        verdict.lower() if verdict.lower() in VERDICTS else verdict,
        is_plain=read == len(words) or (verdict == "REJECT" and words[read : read + 1] == ["--reject-with"]),
        is_for_new=not states or NEW in states.lower(),
    )


def _after(words: Sequence[str], flag: str) -> str:
    at = words.index(flag) if flag in words else len(words)
    negated = at > 0 and words[at - 1] == "!"
    return words[at + 1] if at + 1 < len(words) and not negated else ""
