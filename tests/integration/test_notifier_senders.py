"""One attempt at one receiver: real HTTP, real TLS, real programs; whatever they do, it ends in time with a reason."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.config import Notification
from common.errors import ConfigError
from common.messages import Event
from services.notifier.core.notice import notice_of
from services.notifier.core.signature import headers, key_of
from services.notifier.senders import (
    CommandSender,
    WebhookSender,
    environment,
    file_trouble,
    secret_key,
    sender_of,
    why_unready,
)

CLOCK = SystemClock()
EVENT = Event(name="scale-out", group="web", text="from 1 to 2: müde")
NOTICE = notice_of(EVENT, "decider/1/event.scale-out/1", "decider", 0.0, "monitor/1/sample.local/4")
KEY = "a secret of enough bytes"
DRIPS = 400  # of 0.05 s: longer than any deadline here


class _Receiver(BaseHTTPRequestHandler):
    """Answers as the path says."""

    seen: list[tuple[dict[str, str], bytes]]
    end: threading.Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((dict(self.headers.items()), body))
        what = self.path.strip("/")
        if what == "hang":
            self.end.wait(20)
        elif what == "drip":
            self._drip()
        elif what == "nonsense":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
        elif what != "close":
            self.send_response(int(what.partition("?")[0]))
            self.send_header("Location", "/200")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(DRIPS):
            if self.end.wait(0.05):
                return
            try:
                self.wfile.write(f"X-{number}: y\r\n".encode())
            except OSError:
                return

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Receiver:
    """An HTTP server on a free port."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.end = threading.Event()
        handler = type("Handler", (_Receiver,), {"seen": self.seen, "end": self.end})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[assignment] - a client that hung up is no news
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.end.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def webhook(receiver: Receiver, path: str, timeout_s: float = 10.0, secret: Path | None = None) -> WebhookSender:
    return WebhookSender(f"http://127.0.0.1:{receiver.port}/{path}", secret, timeout_s, CLOCK)


def test_a_webhook_gets_json_that_it_can_verify(receiver: Receiver, secret: Path) -> None:
    assert webhook(receiver, "204?a=b", secret=secret).send(NOTICE) == ""
    fields, body = receiver.seen[0]
    assert json.loads(body)["data"]["text"] == EVENT.text
    assert fields["Content-Type"] == "application/json"
    at_s = int(fields["webhook-timestamp"])
    assert abs(at_s - CLOCK.epoch_s()) < 60
    assert headers(fields["webhook-id"], body, at_s, key_of(KEY))["webhook-signature"] == fields["webhook-signature"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("500", "answered with status 500"),
        ("302", "answered with status 302"),
        ("404", "answered with status 404"),
        ("close", "RemoteDisconnected"),
        ("nonsense", "BadStatusLine"),
    ],
)
def test_any_other_answer_is_none(receiver: Receiver, path: str, said: str) -> None:
    assert said in webhook(receiver, path).send(NOTICE)
    assert len(receiver.seen) == 1  # no redirect was followed, nothing repeated


@pytest.mark.parametrize("path", ["hang", "drip"])
def test_an_attempt_ends_in_time_whatever_the_receiver_does(receiver: Receiver, path: str) -> None:
    assert webhook(receiver, path, timeout_s=0.5).send(NOTICE) == "no answer within 0.5 s"


def test_nobody_there_is_a_reason(receiver: Receiver) -> None:
    port = receiver.port
    receiver.close()
    said = WebhookSender(f"http://127.0.0.1:{port}/", None, 5.0, CLOCK).send(NOTICE)
    assert "ConnectionRefusedError" in said


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a certificate of its own for localhost, and the server's context with it."""
    key, path = tmp_path / "k.pem", tmp_path / "c.pem"
    subprocess.run(
        [*("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
         *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
         *("-keyout", str(key), "-out", str(path), "-days", "2")],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    return path, context


@pytest.mark.parametrize("is_known", [True, False])
def test_only_a_certificate_that_somebody_vouches_for_is_told(
    certificate: tuple[Path, ssl.SSLContext], is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    receiver = Receiver(certificate[1])
    try:
        said = WebhookSender(f"https://localhost:{receiver.port}/200", None, 20.0, CLOCK).send(NOTICE)
    finally:
        receiver.close()
    assert said == "" if is_known else "CERTIFICATE_VERIFY_FAILED" in said
    assert len(receiver.seen) == is_known


def test_a_secret_that_becomes_unreadable_costs_the_attempt_and_no_more(receiver: Receiver, secret: Path) -> None:
    sender = webhook(receiver, "200", secret=secret)
    secret.chmod(0o644)
    assert "is open to others (mode 0644); run: chmod 600" in sender.send(NOTICE)
    secret.chmod(0o600)
    assert sender.send(NOTICE) == ""


def _spoil_missing(path: Path) -> None:
    path.unlink()


def _spoil_short(path: Path) -> None:
    path.write_text("short")


def _spoil_binary(path: Path) -> None:
    path.write_bytes(b"\xff" * 40)


def _spoil_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def _spoil_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _spoil_mode(path: Path) -> None:
    path.chmod(0o640)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_missing, "cannot be read: No such file"),
        (_spoil_short, "must have at least 16 bytes; got 5"),
        (_spoil_binary, "must be text"),
        (_spoil_directory, "cannot be read: Is a directory"),
        (_spoil_pipe, "must be a regular file"),
        (_spoil_mode, "mode 0640"),
    ],
)
def test_a_secret_that_is_none_fails_the_attempts_and_is_told_before(
    secret: Path, spoil: Callable[[Path], None], said: str
) -> None:
    told = Notification(url="http://127.0.0.1/", secret_file=str(secret))
    assert why_unready(told) == ""
    spoil(secret)
    assert said in why_unready(told)
    assert said in sender_of(told, CLOCK).send(NOTICE)


def test_what_everybody_sees_of_a_secret_or_a_program_is_told_without_reading_it(secret: Path) -> None:
    told = Notification(url="http://127.0.0.1/", secret_file=str(secret))
    assert file_trouble(told) == file_trouble(Notification(command=("/bin/sh",))) == ""
    secret.chmod(0o640)
    assert "open to others (mode 0640)" in file_trouble(told)
    secret.unlink()
    assert "No such file" in file_trouble(told)
    assert "/nowhere/tell is missing" in file_trouble(Notification(command=("/nowhere/tell",)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_secret_of_somebody_else_is_refused(secret: Path) -> None:
    os.chown(secret, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        secret_key(secret)


# --- commands ----------------------------------------------------------------------------------------------------


def python(code: str, timeout_s: float = 20.0, *words: str) -> CommandSender:
    return CommandSender((sys.executable, "-c", code, *words), timeout_s)


def test_a_command_gets_json_words_and_fields(tmp_path: Path) -> None:
    code = (
        "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + os.environ['NOTIFICATION_TEXT'] + sys.argv[2])"
    )
    assert python(code, 20.0, str(tmp_path / "f"), "$(no shell)").send(NOTICE) == ""
    body, _, rest = (tmp_path / "f").read_text().partition("\n")
    assert json.loads(body) == json.loads(NOTICE.body)
    assert rest == f"{EVENT.text}$(no shell)"


def test_a_command_that_fails_did_not_take_it() -> None:
    assert python("raise SystemExit(3)").send(NOTICE) == "ended with status 3"


def test_a_command_that_reads_nothing_may_still_take_it() -> None:
    assert CommandSender(("/bin/true",), 20.0).send(NOTICE) == ""


def test_a_command_that_is_none_is_a_reason() -> None:
    assert (
        CommandSender(("/does/not/exist",), 5.0).send(NOTICE)
        == "/does/not/exist cannot be run: No such file or directory"
    )


def test_a_command_that_does_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, sys, subprocess; child = subprocess.Popen(['sleep', '600'])\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}'); child.wait()"
    )
    said = python(code, 5.0, str(pids)).send(NOTICE)
    assert said == "did not end within 5 s and was killed"
    for pid in pids.read_text().split():
        assert not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Return whether the process still runs, once the kernel had the time to end it."""
    pause = threading.Event()
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X"):
                return False
        except OSError:
            return False
        pause.wait(0.05)
    return True


def test_a_command_sees_little_of_our_environment() -> None:
    found = environment(NOTICE, {"PATH": "/bin", "AUTOSCALER_CONFIG": "x", "SECRET": "y"})
    assert found["PATH"] == "/bin"
    assert found["NOTIFICATION_TYPE"] == "scale-out"
    assert {name.partition("_")[0] for name in found} == {"PATH", "NOTIFICATION"}
