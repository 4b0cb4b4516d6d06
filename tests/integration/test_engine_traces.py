"""What the tests' Docker engine is held to have left behind, on a machine where another engine runs or ran."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nftables: a network namespace of its own"
)
SCRIPT = """
import socket, subprocess
from tests.e2e.engine import traces

def do(*words):
    subprocess.run(words, check=True)

do("ip", "link", "set", "lo", "up")
do("iptables", "-N", "DOCKER")
do("iptables", "-A", "OUTPUT", "-j", "DOCKER")
before = traces()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(3):
        sender.sendto(b"x", ("127.0.0.1", 9))
said = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
assert "packets 0" not in [line for line in said.splitlines() if "jump DOCKER" in line][0], said
print("counted", sorted(traces() - before))
do("iptables", "-A", "FORWARD", "-j", "DOCKER")
print("added", sorted(line for line in traces() - before if "hook" in line))
"""


def test_rules_of_another_engine_that_only_count_are_no_trace_and_a_new_chain_is() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted, added = done.stdout.splitlines()
    assert counted == "counted []"
    assert "hook forward" in added
