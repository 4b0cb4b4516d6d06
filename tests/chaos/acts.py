"""What each fault of the schedule does to a running installation, and whose requests it may cost."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from tests.chaos.schedule import Fault
from tests.e2e.owner import dump_memory, suspended
from tests.e2e.small_disk import fill
from tests.e2e.whole import BOOT_S, Whole
from tests.e2e.world import now_s, restart_libvirtd, wait_until

LEAST_READY = 2  # nobody can save what nobody is there to serve
WELL_S = 75.0  # who dies within 60 s of being ready is taken for sick, and its place stays free for a while: by design
BOOTS_S = 3 * BOOT_S
HANGS_S = 5.0
NOTICE_S = 2.0  # until HAProxy sends nothing new to a domain that no longer answers


@dataclass(frozen=True)
class Hurt:
    """A domain that lost what it was working on, from ``begin_s`` to ``end_s`` (monotonic), and at most how much."""

    fault: Fault
    domain: str
    begin_s: float
    end_s: float
    in_flight: int


class Acts:
    """Injects faults into one installation; ``hurt`` tells which domains could not keep their requests."""

    def __init__(self, whole: Whole) -> None:
        self.hurt: list[Hurt] = []
        self._whole = whole
        self._by_kind: dict[str, Callable[[Fault], str]] = {
            "kill services": self._kill_services,
            "freeze a service": self._freeze_service,
            "kill a QEMU": self._kill_qemu,
            "freeze a QEMU": self._freeze_qemu,
            "suspend by its owner": self._suspend,
            "reset": self._reset,
            "memory snapshot": self._dump,
            "restart libvirtd": self._restart_libvirtd,
            "reload HAProxy": self._reload_haproxy,
            "fill the state directory": self._fill,
            "change the configuration": self._change_configuration,
            "order a size": self._order_size,
            "order a replacement": self._order_replacement,
        }

    def kinds(self) -> set[str]:
        """Return every kind that can be injected."""
        return set(self._by_kind)

    def inject(self, fault: Fault) -> str:
        """Do it, and undo what ends with it; return whom it met."""
        return self._by_kind[fault.kind](fault)

    # --- processes -------------------------------------------------------------------------------------------------

    def _kill_services(self, fault: Fault) -> str:
        victims = fault.some_of(self._running_services())
        for service in victims:
            for pid in self._whole.pids(service):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return ", ".join(victims)

    def _freeze_service(self, fault: Fault) -> str:
        service = fault.one_of(self._running_services())
        with self._whole.stopped(self._whole.pid(service)):
            time.sleep(fault.lasts_s)  # the fault is its length
        return service

    def _running_services(self) -> list[str]:
        return wait_until(
            lambda: [service for service in self._whole.config.services if self._whole.pids(service)],
            BOOT_S,
            "a service that runs",
        )

    def _reload_haproxy(self, _fault: Fault) -> str:
        os.kill(self._whole.pid("haproxy"), signal.SIGUSR2)
        return "SIGUSR2 to the master"

    def _restart_libvirtd(self, _fault: Fault) -> str:
        restart_libvirtd()
        return ""

    # --- domains ---------------------------------------------------------------------------------------------------

    def _kill_qemu(self, fault: Fault) -> str:
        with self._hurting(fault) as name:
            self._whole.world.kill_qemu(name)
        return name

    def _freeze_qemu(self, fault: Fault) -> str:
        with self._hurting(fault) as name:
            pid = self._whole.world.qemu_pid(name)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(fault.lasts_s)  # the fault is its length
            with suppress(ProcessLookupError):  # it has been replaced
                os.kill(pid, signal.SIGCONT)
        return name

    def _reset(self, fault: Fault) -> str:
        with self._hurting(fault) as name:
            command = ["virsh", "--connect", "qemu:///system", "reset", name]
            pid = self._whole.world.qemu_pid(name)
            try:
                subprocess.run(command, check=False, capture_output=True, timeout=HANGS_S)  # it may end within the call
            except subprocess.TimeoutExpired:  # libvirt 9.0 may wait for ever for a QEMU that it ends
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return f"{name}; libvirt did not return from it, so its QEMU was killed"
        return name

    def _suspend(self, fault: Fault) -> str:
        name = self._victim(fault)
        with suspended(self._whole.domain(name)):
            time.sleep(fault.lasts_s)  # the fault is its length
        return name

    def _dump(self, fault: Fault) -> str:
        name = self._victim(fault)
        with tempfile.TemporaryDirectory(prefix="asx-", dir="/var/tmp") as place:
            Path(place).chmod(0o711)
            dump_memory(self._whole.domain(name), Path(place))
        return name

    def _victim(self, fault: Fault) -> str:
        return str(self._victims_state(fault)["name"])

    def _victims_state(self, fault: Fault, least_age_s: float = 0.0) -> dict[str, Any]:
        """Choose a domain in rotation that was started so long ago; at least one other is left."""

        def choices() -> list[dict[str, Any]]:
            ready = self._whole.ready()
            return [each for each in ready if each["age_s"] >= least_age_s] if len(ready) >= LEAST_READY else []

        found = wait_until(choices, BOOTS_S + least_age_s, f"{LEAST_READY} domains in rotation")
        return fault.one_of(sorted(found, key=lambda member: member["name"]))

    @contextmanager
    def _hurting(self, fault: Fault) -> Iterator[str]:
        """Choose a domain, and note what it worked on while the body hurts it."""
        victim = self._victims_state(fault, WELL_S)
        name, address, begin_s = str(victim["name"]), victim["address"], now_s()
        in_flight = sum(server.in_flight for server in self._whole.servers() if server.address == address)
        try:
            yield name
        except libvirt.libvirtError as error:
            raise AssertionError(f"{fault.kind} of {name}: {error}") from error
        finally:
            self.hurt.append(Hurt(fault, name, begin_s, now_s() + NOTICE_S, in_flight))

    # --- the host, and people --------------------------------------------------------------------------------------

    def _fill(self, fault: Fault) -> str:
        path = self._whole.world.state_dir / "filled"
        fill(path)
        try:
            time.sleep(fault.lasts_s)  # the fault is its length
        finally:
            path.unlink()
        return str(path.parent.name)

    def _change_configuration(self, fault: Fault) -> str:
        if fault.chance < 0.5:
            most = 3 if self._whole.group_config.maximum == 4 else 4
            self._rewrite(r"^max = \d+", f"max = {most}")
            self._whole.world.autoscaler("reload")
            self._whole.reread()
            return f"max = {most}, reload"
        wanted = 3000 if self._whole.config.haproxy.maxconn == 4000 else 4000
        self._rewrite(r"^maxconn = \d+", f"maxconn = {wanted}")
        self._whole.world.autoscaler("up")
        self._whole.reread()
        return f"maxconn = {wanted}, up"

    def _rewrite(self, pattern: str, line: str) -> None:
        path = self._whole.world.config
        text, count = re.subn(pattern, line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1, pattern
        path.write_text(text, encoding="utf-8")

    def _order_size(self, fault: Fault) -> str:
        group = self._whole.group_config
        size = fault.one_of(list(range(group.minimum, group.maximum + 1)))
        self._whole.world.autoscaler("scale", str(size))
        return str(size)

    def _order_replacement(self, fault: Fault) -> str:
        name = self._victim(fault)
        self._whole.world.autoscaler("replace", name)
        return name
