"""What a firewall does with packets that are forwarded, from ``nft -j`` or ``iptables -S``: pure.

Only two things of a rule are read: which interfaces it names, and what becomes of the packet. That is enough to tell
whether a chain that drops by default lets our bridge through.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cli.doctor.facts import Chain, Rule

JUMPS: Final = ("jump", "goto")
VERDICTS: Final = ("accept", "drop", "reject", "return")


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
    """Return the chains that drop what is forwarded unless a rule accepts it, and accept nothing of ``bridge``."""
    return [
        chain
        for chain in chains
        if chain.hook == "forward" and chain.policy == "drop" and not _lets_through(chain, chains, bridge)
    ]


def has_libvirt_rules(chains: Iterable[Chain]) -> bool:
    """Return whether libvirt writes its rules into the same tables as iptables does: then it opens what it needs."""
    return any(rule.verdict.startswith("LIBVIRT_FW") for chain in chains for rule in chain.rules)


def _lets_through(chain: Chain, chains: Sequence[Chain], bridge: str) -> bool:
    named = {other.name: other for other in chains if other.table == chain.table}
    return _accepts(chain, named, bridge, frozenset())


def _accepts(chain: Chain, named: Mapping[str, Chain], bridge: str, been: frozenset[str]) -> bool:
    for rule in chain.rules:
        is_about_us = rule.is_plain or bridge in (rule.came_in, rule.goes_out)
        if rule.verdict == "accept" and is_about_us:
            return True
        follows = named.get(rule.verdict)
        if follows is None or follows.name in been or not (is_about_us or not (rule.came_in or rule.goes_out)):
            continue
        if _accepts(follows, named, bridge, been | {chain.name}):
            return True
    return False


def _nft_rule(expressions: list[dict[str, Any]]) -> Rule:
    came_in = goes_out = verdict = ""
    is_plain = True
    for expression in expressions:
        if "match" in expression:
            is_plain = False
            match = expression["match"]
            left, right = match.get("left"), match.get("right")
            key = left.get("meta", {}).get("key", "") if isinstance(left, dict) else ""
            if match.get("op") == "==" and isinstance(right, str):
                came_in = right if key in ("iifname", "iif") else came_in
                goes_out = right if key in ("oifname", "oif") else goes_out
        elif "xt" in expression:
            is_plain = False
        verdict = _nft_verdict(expression) or verdict
    return Rule(came_in, goes_out, verdict, is_plain)


def _nft_verdict(expression: Mapping[str, Any]) -> str:
    for word in VERDICTS:
        if word in expression:
            return word
    targets = [expression[jump]["target"] for jump in JUMPS if jump in expression]
    return str(targets[0]) if targets else ""


def _iptables_rule(words: Sequence[str]) -> Rule:
    came_in, goes_out, verdict = (_after(words, flag) for flag in ("-i", "-o", "-j"))
    is_plain = list(words[:1]) == ["-j"]
    return Rule(came_in, goes_out, verdict.lower() if verdict.lower() in VERDICTS else verdict, is_plain)


def _after(words: Sequence[str], flag: str) -> str:
    at = words.index(flag) if flag in words else len(words)
    negated = at > 0 and words[at - 1] == "!"
    return words[at + 1] if at + 1 < len(words) and not negated else ""
