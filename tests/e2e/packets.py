"""Packets that this machine loses for a test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rules(table: str, *lines: str) -> Iterator[None]:
    """Have the machine treat packets by these rules of nftables, those that it sends and those that it receives."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; {'; '.join(lines)}; }}; " for hook in ("output", "input")
    )
    subprocess.run(["nft", f"table ip {table} {{ {chains}}}"], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", f"delete table ip {table}"], check=True)
