"""What containers cannot do as the native run can: found before anything starts, each with the way out."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from common.config import Config
from common.config_environment import overriding
from common.endpoint import split_endpoint
from common.errors import ConfigError

FIRST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
IMAGE_PROGRAMS = ("/bin", "/usr/bin", "/sbin", "/usr/sbin")  # of the image itself, as on every Debian
OVERRIDE = "docker-compose.override.yml"  # compose reads it by itself; what it mounts is the operator's business


def check_configuration(config: Config, config_path: Path, project: Path, environ: Mapping[str, str]) -> None:
    """Refuse what would fail in the containers.

    Raises:
        ConfigError: with the key, its value, and what to do.
    """
    first_port = int(FIRST_PORT.read_text(encoding="ascii"))
    problems = [
        *_unreadable(config_path),
        *_not_passed_on(environ),
        *_elsewhere(config),
        *_low_ports(config, first_port),
        *([] if (project / OVERRIDE).exists() else _not_mounted(config)),
    ]
    if problems:
        raise ConfigError("not with RUNTIME=compose: " + "; ".join(problems))


def _unreadable(config_path: Path) -> Iterator[str]:
    if not config_path.stat().st_mode & stat.S_IROTH:
        yield f"{config_path} is closed to the containers' user: chmod o+r {config_path}"


def _not_passed_on(environ: Mapping[str, str]) -> Iterator[str]:
    for name in overriding(environ):
        yield f"{name} does not reach the containers: write it into the configuration file"


def _elsewhere(config: Config) -> Iterator[str]:
    if config.bus.transport != "ipc":
        yield f"bus.transport = {config.bus.transport!r}: containers share the sockets of one machine ('ipc')"
    for name, host in config.hosts.items():
        if "+ssh" in urlsplit(host.uri).scheme or "+libssh" in urlsplit(host.uri).scheme:
            yield f"hosts.{name}.uri = {host.uri!r}: the image has no ssh; use qemu+tls, or the native run"


def _low_ports(config: Config, first_port: int) -> Iterator[str]:
    for name, group in config.groups.items():
        port = split_endpoint(group.endpoint)[1]
        if port < first_port:
            yield (
                f"groups.{name}.endpoint = {group.endpoint!r}: HAProxy's container has no right to ports below "
                f"{first_port}; sysctl net.ipv4.ip_unprivileged_port_start={port} gives it"
            )


def _not_mounted(config: Config) -> Iterator[str]:
    """Tell of files outside of the state directory: the containers do not see them."""
    for key, path in _files(config):
        if path and not Path(path).is_relative_to(config.system.state_path):
            yield f"{key} = {path!r} is not in {config.system.state_path}: put it there, or mount it in {OVERRIDE}"


def _files(config: Config) -> Iterator[tuple[str, str]]:
    for name, group in config.groups.items():
        for key in ("directory", "disk", "user_data", "xml"):
            yield f"groups.{name}.image.{key}", getattr(group.image, key)
    for number, told in enumerate(config.notifications):
        yield f"notifications[{number}].secret_file", told.secret_file
        for word in told.command:
            is_of_image = str(Path(word).parent) in IMAGE_PROGRAMS
            if not is_of_image and (word == told.command[0] or (word.startswith("/") and Path(word).is_file())):
                yield f"notifications[{number}].command", word
