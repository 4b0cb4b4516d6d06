"""One step against one host. Before anything is changed, the domain is looked at once more.

libvirt addresses domains by name. Between the plan and the call an operator may have removed our domain and made
another under its name; so every step checks that the UUID is the one it was planned for, and that our record is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from common.domain import DomainFacts
from common.errors import DomainGoneError, HypervisorBusyError, HypervisorError, HypervisorLostError
from services.actuator.core.steps import (
    Define,
    Destroy,
    SetPhase,
    SetQuota,
    Shutdown,
    Start,
    Step,
    Suspend,
    Undefine,
)


class Host(Protocol):
    """What the actuator needs of ``common.hypervisor.Connection``."""

    def domains(self) -> list[DomainFacts]: ...
    def facts(self, name: str) -> DomainFacts | None: ...
    def define(self, xml: str) -> str: ...
    def start(self, name: str) -> None: ...
    def shutdown(self, name: str) -> None: ...
    def destroy(self, name: str) -> None: ...
    def undefine(self, name: str) -> None: ...
    def suspend(self, name: str) -> None: ...
    def set_metadata(self, name: str, metadata: Mapping[str, str]) -> None: ...
    def set_quota(self, name: str, cpu_quota: float | None) -> None: ...
    def address(self, name: str, source: str) -> str | None: ...
    def free_memory_bytes(self) -> int: ...
    def host_cpus(self) -> int: ...
    def is_alive(self) -> bool: ...
    def close(self) -> None: ...


class Result(StrEnum):
    """How a step ended. ``UNKNOWN``: the call was lost or late; the next look tells."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step."""

    step: Step
    result: Result
    error: str
    finished_s: float


def attempt(host: Host, step: Step, xml: str | None) -> tuple[Result, str]:
    """Perform the step and return how it ended; a domain that is gone means: done.

    Args:
        xml: The definition, for ``Define`` only.
    """
    try:
        perform(host, step, xml)
    except DomainGoneError:
        return (Result.FAILED, "the domain is gone") if isinstance(step, Define | Start) else (Result.DONE, "")
    except (HypervisorBusyError, HypervisorLostError) as error:
        return Result.UNKNOWN, str(error)
    except HypervisorError as error:
        return Result.FAILED, str(error)
    return Result.DONE, ""


def perform(host: Host, step: Step, xml: str | None) -> None:
    """Carry out the step.

    Raises:
        HypervisorError: libvirt refused, or the domain is not the one that the step was planned for.
    """
    _check_is_ours(host, step)
    match step:
        case Define():
            host.define(_required(xml))
        case Start():
            host.start(step.domain)
        case SetPhase():
            host.set_metadata(step.domain, step.record.to_metadata())
        case SetQuota():
            host.set_quota(step.domain, step.cpu_quota)
            host.set_metadata(step.domain, step.record.to_metadata())
        case Shutdown():
            host.shutdown(step.domain)
            host.set_metadata(step.domain, step.record.to_metadata())
        case Destroy():
            host.destroy(step.domain)
        case Suspend():
            host.suspend(step.domain)
        case Undefine():
            host.undefine(step.domain)


def _check_is_ours(host: Host, step: Step) -> None:
    facts = host.facts(step.domain)
    if isinstance(step, Define):
        if facts is not None:
            raise HypervisorError(f"{step.domain} exists already on {step.host}; nothing is defined over it")
        return
    if facts is None:
        raise DomainGoneError(f"{step.domain} is gone from {step.host}")
    if facts.uuid != step.uuid:
        raise HypervisorError(f"{step.domain} on {step.host} is another domain now; it is left alone")
    if not (isinstance(step, SetPhase) and step.was is None) and facts.metadata.get("group") != step.group:
        raise HypervisorError(f"{step.domain} on {step.host} does not carry our record any more; it is left alone")


def _required(xml: str | None) -> str:
    if xml is None:
        raise ValueError("a Define step needs its XML")
    return xml
