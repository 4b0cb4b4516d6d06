"""With which code every command ends: scripts and supervisors decide by it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from cli.main import app
from cli.manual import completion

PATIENCE_S = 30.0


def names(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from names(command, (*prefix, name))
        else:
            yield (*prefix, name)


COMMANDS = list(names(typer.main.get_command(app)))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "autoscaler.toml"
    (tmp_path / "run").mkdir(mode=0o700)
    path.write_text(
        f'[system]\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n[groups.web]\nprefix = "web-"\n'
    )
    return path


def begin(config: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "--config", str(config), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "AUTOSCALER_CONFIG"},
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """Undo what a shell does to commands in its background: they, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_ends_with_0_and_an_unknown_option_with_2(command: tuple[str, ...]) -> None:
    runner = CliRunner()
    assert runner.invoke(app, [*command, "--help"]).exit_code == 0
    assert runner.invoke(app, [*command, "--no-such-option"]).exit_code == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_waits_ends_with_the_code_of_its_signal(config: Path, number: signal.Signals, code: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as decider:
        decider.bind(str(config.parent / "run" / "control-decider.sock"))
        decider.listen()
        decider.settimeout(PATIENCE_S)
        process = begin(config, "pause")
        connection, _ = decider.accept()  # it asks, and gets no answer
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
        connection.close()
    assert process.returncode == code
    assert "Traceback" not in err


def test_no_answer_ends_with_1_and_no_configuration_with_2(config: Path, tmp_path: Path) -> None:
    process = begin(config, "reload")
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "nothing was changed: monitor, decider," in out
    absent = begin(tmp_path / "absent.toml", "status")
    _, err = absent.communicate(timeout=PATIENCE_S)
    assert (absent.returncode, "cannot be read" in err) == (2, True)


def test_help_says_where_the_configuration_is_looked_for() -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "$AUTOSCALER_CONFIG, ./autoscaler.toml, $XDG_CONFIG_HOME/libvirt-autoscaler/autoscaler.toml" in shown


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_what_a_shells_script_asks_for_is_answered(shell: str) -> None:
    """The scripts of zsh and fish ask by variables; bash's is run as it is where the installation is tested."""
    assert f"_AUTOSCALER_COMPLETE=complete_{shell}" in completion(shell)
    asked = {"_TYPER_COMPLETE_ARGS": "autoscaler rel", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [sys.executable, "-m", "cli"],
        env=os.environ | asked | {"_AUTOSCALER_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "reload" in done.stdout
    assert "status" not in done.stdout
