"""Telling one receiver, once: a webhook by HTTP, or a program. Each attempt is bounded in time as a whole.

Nothing here waits for anything but the receiver, and no error leaves it: an attempt succeeds, or it failed with a
reason.
"""

import contextlib
import http.client
import os
import signal
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from common import __version__
from common.clock import Clock
from common.config import Notification
from common.errors import ConfigError
from common.plain import plain
from services.notifier.core.notice import Notice
from services.notifier.core.signature import headers, key_of

MAX_SECRET_BYTES: Final = 4096
MAX_ANSWER_BYTES: Final = 64 * 1024
KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILL_WAIT_S: Final = 1.0


class Sender(Protocol):
    """Tells one receiver."""

    def send(self, notice: Notice) -> str:
        """Tell the notice; return why the receiver did not take it, empty if it did."""


def sender_of(notification: Notification, clock: Clock) -> Sender:
    """Return the sender of a receiver; what it cannot read or run fails each attempt, and no other receiver."""
    if notification.command:
        return CommandSender(notification.command, notification.timeout_s)
    secret = Path(notification.secret_file) if notification.secret_file else None
    return WebhookSender(notification.url, secret, notification.timeout_s, clock)


def why_unready(notification: Notification) -> str:
    """Return why no attempt of this process can succeed, by the receiver's own files; empty if one can."""
    try:
        if notification.secret_file:
            secret_key(Path(notification.secret_file))
    except ConfigError as error:
        return str(error)
    return file_trouble(notification)


def file_trouble(notification: Notification) -> str:
    """Return what everybody sees to be wrong with a receiver's secret or program; empty if nothing is."""
    if notification.command and not os.access(notification.command[0], os.X_OK):
        return f"command: {notification.command[0]} is missing, or may not be run"
    if not notification.secret_file:
        return ""
    try:
        mode = stat.S_IMODE(Path(notification.secret_file).stat().st_mode)
    except OSError as error:
        return f"secret_file: {notification.secret_file}: {error.strerror}"
    return f"secret_file {notification.secret_file} is open to others (mode {mode:04o})" if mode & 0o077 else ""


def secret_key(path: Path) -> bytes:
    """Return the key in a file that its owner alone may read.

    Raises:
        ConfigError: there is no such file, others may read it, or what it holds is no secret.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"secret_file {path} must be a regular file")
            if stat.S_IMODE(found.st_mode) & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise ConfigError(f"secret_file {path} is open to others (mode {mode:04o}); run: chmod 600 {path}")
            if found.st_uid not in (0, os.geteuid()):
                raise ConfigError(f"secret_file {path} belongs to user {found.st_uid}; it must be ours or root's")
            return key_of(file.read(MAX_SECRET_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"secret_file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"secret_file {path} must be text; it is not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise ConfigError(f"secret_file {path}: {error}") from error


class WebhookSender:
    """POSTs the notice as JSON; any 2xx answer means: taken. Redirects are not followed, proxies not asked."""

    def __init__(self, url: str, secret: Path | None, timeout_s: float, clock: Clock) -> None:
        """Read the secret at each attempt, so that a new one needs no restart."""
        self._url: SplitResult = urlsplit(url)
        self._secret = secret
        self._timeout_s = timeout_s
        self._clock = clock

    def send(self, notice: Notice) -> str:
        """Tell the notice; return why the receiver did not take it, empty if it did."""
        body = notice.body.encode()
        try:
            key = None if self._secret is None else secret_key(self._secret)
            signed = headers(notice.id, body, int(self._clock.epoch_s()), key)
            status = self._post(body, signed)
        except ConfigError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s"
        except (OSError, http.client.HTTPException) as error:  # TLS faults are OSErrors
            return plain(f"{type(error).__name__}: {error}", 300)  # the receiver's words may be in it
        return "" if 200 <= status < 300 else f"answered with status {status}"

    def _post(self, body: bytes, signed: dict[str, str]) -> int:
        connection = self._connection()
        is_late = threading.Event()

        def hang_up() -> None:
            """End an exchange whose every byte comes in time, and whose last never does."""
            is_late.set()
            if connection.sock is not None:
                _shut(connection.sock)

        limit = threading.Timer(self._timeout_s, hang_up)
        limit.daemon = True
        limit.start()
        try:
            connection.connect()
            if is_late.is_set():  # there was no socket yet that could have been shut
                raise TimeoutError
            fields = {"Content-Type": "application/json", "User-Agent": f"libvirt-autoscaler/{__version__}", **signed}
            connection.request("POST", self._target, body, fields)
            response = connection.getresponse()
            response.read(MAX_ANSWER_BYTES)
            if is_late.is_set():  # what was cut off looks like the end of an answer
                raise TimeoutError
            return response.status
        except (OSError, http.client.HTTPException) as error:
            if is_late.is_set():
                raise TimeoutError from error
            raise
        finally:
            limit.cancel()
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    @property
    def _target(self) -> str:
        query = f"?{self._url.query}" if self._url.query else ""
        return f"{self._url.path or '/'}{query}"


class CommandSender:
    """Runs a program: the notice on its standard input, its fields in the environment; exit status 0 means: taken."""

    def __init__(self, command: tuple[str, ...], timeout_s: float) -> None:
        """Run ``command`` as it is, without a shell, in a session of its own."""
        self._command = command
        self._timeout_s = timeout_s

    def send(self, notice: Notice) -> str:
        """Tell the notice; return why the receiver did not take it, empty if it did."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # its standard error goes where ours goes: into the log
                env=environment(notice, os.environ),
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            return f"{self._command[0]} cannot be run: {error.strerror}"
        try:
            process.communicate(notice.body.encode() + b"\n", timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            _kill_session(process)
            return f"did not end within {self._timeout_s:g} s and was killed"
        return "" if process.returncode == 0 else f"ended with status {process.returncode}"


def environment(notice: Notice, ours: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Return the environment of a command: little of ours, and what the event says."""
    kept = {"PATH": DEFAULT_PATH} | {name: ours[name] for name in KEPT_VARIABLES if name in ours}
    said = {f"NOTIFICATION_{key.upper()}": value.replace("\0", "") for key, value in notice.fields.items()}
    return {**kept, **said, "NOTIFICATION_ID": notice.id, "NOTIFICATION_TYPE": notice.type}


def _shut(door: socket.socket) -> None:
    try:
        door.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already, by the other side or by us
        return


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started."""
    with contextlib.suppress(ProcessLookupError):  # it has ended in this instant
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        return  # in the kernel, beyond a signal's reach; it is reaped by a later start
