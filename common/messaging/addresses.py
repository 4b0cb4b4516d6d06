"""Where each service publishes and answers, and whether that may be open to other machines."""

import ipaddress

from common.config import Config
from common.endpoint import join_endpoint, split_endpoint
from common.errors import ConfigError


def publish_address(config: Config, service: str) -> str:
    """Return where ``service`` publishes."""
    if _is_local(config, service):
        return f"ipc://{config.system.run_path}/{service}.sock"
    return config.bus.endpoints[service]


def control_address(config: Config, service: str) -> str:
    """Return where ``service`` answers requests: on TCP, one port further."""
    if _is_local(config, service):
        return f"ipc://{config.system.run_path}/control-{service}.sock"
    host, port = split_endpoint(config.bus.endpoints[service].removeprefix("tcp://"))
    return f"tcp://{join_endpoint(host, port + 1)}"


def check_encrypted(config: Config, service: str) -> None:
    """Refuse to be open to other machines without keys.

    Raises:
        ConfigError: the endpoint is not on loopback, and there is no directory of keys.
    """
    if _is_local(config, service) or config.bus.keys_dir:
        return
    endpoint = config.bus.endpoints[service]
    host, _ = split_endpoint(endpoint.removeprefix("tcp://"))
    if not ipaddress.ip_address(host).is_loopback:
        raise ConfigError(
            f"bus.endpoints.{service} = {endpoint!r} is open to other machines and needs keys: "
            "set bus.keys_dir to a directory made by 'autoscaler keys DIR', or use a loopback address"
        )


def _is_local(config: Config, service: str) -> bool:
    """Return whether the service has sockets of this machine: as all have, or as an optional one without endpoint."""
    return config.bus.transport == "ipc" or service not in config.bus.endpoints


def no_answer(config: Config, service: str, timeout_s: float, refusal: str, pid: int | None) -> str:
    """Return the sentence for a request that got no answer: which service, where, and what to do.

    Args:
        refusal: why the handshake failed, empty if it did not, or there are no keys.
        pid: the process that runs as this service on this machine, None if none is known.
    """
    where = control_address(config, service)
    if refusal:
        return f"{service} at {where} refuses this machine: {refusal}; see 'autoscaler keys --help'"
    if pid is not None:
        return f"{service} (pid {pid}) runs, but does not answer at {where} within {timeout_s:g} s"
    return f"{service} does not answer at {where} within {timeout_s:g} s; is it running? See 'autoscaler status'"
