"""Typing wrong things: one clear sentence, the right exit code, nothing started."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cli.stack import check_addresses_are_free
from common.config import Config, Group, Metrics
from common.errors import AutoscalerError
from tests.faults.proof import Proof
from tests.integration.test_bus_roles import old_directory

GOOD = '[system]\nrun_dir = "{run}"\nstate_dir = "{state}"\n[groups.web]\nprefix = "web-"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a good configuration file whose directories are the test's own."""
    path = tmp_path / "autoscaler.toml"
    path.write_text(GOOD.format(run=tmp_path / "run", state=tmp_path / "state"), encoding="utf-8")
    return path


def autoscaler(config: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "--config", str(config), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | env,
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mx = 3", "unknown key; did you mean 'max'"),
        ('max = "four"', "valid integer; got 'four'"),
        ("min = 5", "min must be <= max (4); got 5"),
        ('endpoint = "nowhere"', "must be ADDRESS:PORT"),
        ('[groups.api]\nprefix = "web-"\nendpoint = "127.0.0.1:9"', "prefix clashes"),
        ('[groups.api]\nprefix = "a;b"', "got 'a;b'"),
        ('[groups.api]\nprefix = "</name>"', "got '</name>'"),
        ('[groups."a;b"]\nprefix = "x-"', "'a;b' must match"),
        ("max = ", "not valid TOML"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_and_exit_2(config: Path, line: str, said: str) -> None:
    config.write_text(config.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    done = autoscaler(config, "config", "check")
    assert done.returncode == 2, done
    assert said in done.stderr
    assert str(config) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault(51)
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("groups.api.prefix", '[groups.api]\nprefix = "</name>"'),
        ("network.name", '[network]\nname = "x\\"/><y"'),
        ("network.bridge", '[network]\nbridge = "a<b"'),
        ("network", '[network]\nname_servers = ["1.1.1.1<"]'),
        ("groups.web.image.directory", '[groups.web.image]\ndirectory = "/a\\u0001b"'),
        ("groups.web.image.disk", '[groups.web.image]\ndisk = "/a\\u0001b"'),
        ("groups.web.image.disk", '[groups.web.image]\ndisk = "/a\\uFFFEb"'),
        ("groups.web.image.xml", '[groups.web.image]\nxml = "/a\\uFFFFb"'),
    ],
)
def test_what_cannot_stand_in_xml_is_refused_with_its_line_and_key(
    config: Path, key: str, text: str, row: Proof
) -> None:
    written = config.read_text(encoding="utf-8")
    config.write_text(f"{written}{text}\n", encoding="utf-8")
    done = autoscaler(config, "up")
    told = done.stderr.splitlines()[0]
    lines = range(written.count("\n") + 1, written.count("\n") + 3)
    assert done.returncode == 2 and any(told.startswith(f"autoscaler: {config}:{n}: {key}") for n in lines), told
    row.held(f"refused before anything is started: {text.splitlines()[-1]}")


def test_a_receiver_without_its_secret_is_a_note_and_no_fault_of_the_file(config: Path) -> None:
    told = '[[notifications]]\nurl = "http://127.0.0.1/"\nsecret_file = "/nowhere/hook.key"\n'
    config.write_text(config.read_text(encoding="utf-8") + told, encoding="utf-8")
    done = autoscaler(config, "config", "check")
    assert done.returncode == 0
    assert "note: notifications.0: secret_file: /nowhere/hook.key: No such file" in done.stdout


@pytest.mark.parametrize("command", ["status", "up", "down", "load"])
def test_no_command_acts_on_a_wrong_configuration(config: Path, command: str) -> None:
    config.write_text(config.read_text(encoding="utf-8") + "mx = 3\n", encoding="utf-8")
    done = autoscaler(config, command)
    assert (done.returncode, "unknown key" in done.stderr) == (2, True)
    assert not (config.parent / "run").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    done = autoscaler(tmp_path / "none.toml", "status")
    assert (done.returncode, "cannot be read: No such file" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "args",
    [
        ["scale", "x"],
        ["scale", "-1"],
        ["bounds"],
        ["patience"],
        ["frobnicate"],
        ["scale", "1", "--group", "nope"],
        ["events", "--limit", "0"],
        ["scale", "99999999999999999999"],
        ["bounds", "--max", "99999999999999999999"],
        ["drain", "web-0000", "--force", "--cancel"],
        ["load", "--web", "65536"],
        ["plot", "--png", "graph.txt"],
        ["mode", "foo"],
    ],
)
def test_a_wrong_command_line_is_exit_2(config: Path, args: list[str]) -> None:
    done = autoscaler(config, *args)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["status", "--json"], ["config", "check"], ["config", "show"]])
def test_what_cannot_be_printed_is_one_sentence(config: Path, args: list[str]) -> None:
    command = [sys.executable, "-m", "cli", "--config", str(config), *args]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "autoscaler: No space left on device\n"


def test_a_run_directory_that_is_none_is_told(config: Path) -> None:
    (config.parent / "run").touch()
    done = autoscaler(config, "status")
    assert (done.returncode, done.stderr) == (1, f"autoscaler: run_dir {config.parent}/run must be a directory\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become somebody who may not read it")
@pytest.mark.parametrize("args", [["events"], ["explain", "--since", "5m"]])
def test_a_state_directory_of_somebody_else_is_one_sentence(args: list[str]) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        Path(home).chmod(0o755)
        config = Path(home) / "autoscaler.toml"
        config.write_text(GOOD.format(run=f"{home}/run", state=f"{home}/state"), encoding="utf-8")
        (Path(home) / "state").mkdir(mode=0o700)
        command = [*nobody, sys.executable, "-m", "cli", "--config", str(config), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    recording = f"{home}/state/recording"
    assert done.returncode == 1
    assert done.stderr == f"autoscaler: the recording in {recording} cannot be read: Permission denied\n"


def test_a_taken_port_for_the_page_of_the_load_is_told(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = autoscaler(config, "load", "--web", str(port))
    assert (done.returncode, f"--web: 127.0.0.1:{port} cannot be used" in done.stderr) == (1, True)


def test_a_load_that_nobody_answers_says_why(config: Path) -> None:
    config.write_text(config.read_text(encoding="utf-8") + 'endpoint = "127.0.0.1:1"\n', encoding="utf-8")
    done = autoscaler(config, "load", "--period", "0.2", "--seconds", "1")
    assert done.returncode == 1
    assert "0 answered well" in done.stdout
    assert "Connection refused" in done.stdout


def test_a_wrong_duration_is_refused(config: Path) -> None:
    done = autoscaler(config, "events", "--since", "soon")
    assert (done.returncode, "such as 15m" in done.stderr) == (2, True)


@pytest.mark.parametrize(("args", "service"), [(["scale", "2"], "decider"), (["protect", "web-0000"], "actuator")])
def test_an_order_to_a_dead_service_names_it(config: Path, args: list[str], service: str) -> None:
    done = autoscaler(config, *args)
    assert done.returncode == 1
    assert service in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["status", "--json"], ["status"]])
def test_status_says_that_nothing_runs_and_shows_what_there_is(config: Path, args: list[str]) -> None:
    done = autoscaler(config, *args)
    first, *more = done.stderr.partition("; another configuration runs on this machine")  # one may, beside the tests
    assert (done.returncode, f"{first.strip()}\n") == (1, "autoscaler: not running: make up\n"), more
    assert '"alive": false' in done.stdout or "no answer" in done.stdout


XML = '[groups.web.image]\ndisk = "{0}/base.qcow2"\ndisk_gib = 3\nxml = "{0}/extra.xml"\n'


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("<domain", "groups.web.image: the extra domain XML cannot be used"),
        ("<domain><name>mine</name></domain>", "groups.web.image: the extra domain XML cannot be used"),
        (None, "groups.web.image: xml: {0}/extra.xml cannot be read: No such file"),
    ],
)
def test_extra_xml_that_up_would_refuse_is_refused(config: Path, extra: str | None, said: str) -> None:
    config.write_text(config.read_text(encoding="utf-8") + XML.format(config.parent), encoding="utf-8")
    if extra is not None:
        (config.parent / "extra.xml").write_text(extra, encoding="utf-8")
    done = autoscaler(config, "config", "check")
    assert (done.returncode, said.format(config.parent) in done.stderr) == (2, True), done


def test_what_only_libvirt_can_judge_is_named(config: Path) -> None:
    config.write_text(config.read_text(encoding="utf-8") + XML.format(config.parent), encoding="utf-8")
    (config.parent / "extra.xml").write_text("<domain><title>mine</title></domain>", encoding="utf-8")
    done = autoscaler(config, "config", "check")
    assert done.returncode == 0, done.stderr
    assert "groups.web.image: not checked, for only libvirt can judge it: the disk image and the def" in done.stdout


def test_a_file_that_is_named_is_read_by_those_too_that_need_none(config: Path, tmp_path: Path) -> None:
    simulate = ["simulate", "--synthetic", "spike", "--requests-per-domain", "100", "--lead-time", "60", "--json"]
    missing = tmp_path / "missing.toml"
    for args in (simulate, ["replay", str(tmp_path)], ["keys", str(tmp_path / "keys")]):
        done = autoscaler(missing, *args)
        assert (done.returncode, f"{missing}: cannot be read" in done.stderr) == (2, True), done
    assert not (tmp_path / "keys").exists()
    by_group, own = autoscaler(config, *simulate).stdout, autoscaler(config, *simulate, "--config", str(config)).stdout
    assert by_group == own != "", "simulate goes by the file's own group"


@pytest.mark.parametrize(("args", "said"), [(["status", "--config"], "--config"), (["config", "show", "-c"], "-c")])
def test_an_option_at_the_wrong_place_says_where_it_belongs(config: Path, args: list[str], said: str) -> None:
    done = autoscaler(config, *args, str(config))
    assert done.returncode == 2
    assert f"{said} comes before the command: autoscaler {said} FILE {args[0]}" in done.stderr


@pytest.mark.parametrize("args", [["--help"], ["status"], ["config", "show"], ["doctor", "--help"]])
def test_a_terminal_that_lacks_a_character_shows_another(config: Path, args: list[str]) -> None:
    done = autoscaler(config, *args, PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.stderr
    assert done.stdout


def test_another_package_of_a_name_of_ours_is_not_run(config: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    for name in ("common", "cli", "services"):
        (shadow / name).mkdir(parents=True)
        (shadow / name / "__init__.py").write_text(f"raise SystemExit('shadowed {name}')\n", encoding="utf-8")
    done = autoscaler(config, "plot", DISPLAY="", WAYLAND_DISPLAY="", PYTHONPATH=str(shadow))
    assert "--png" in done.stderr, done  # the window is a process of its own


def test_events_without_a_recording_say_so(config: Path) -> None:
    done = autoscaler(config, "events")
    assert (done.returncode, "no recording" in done.stderr) == (1, True)


def test_a_graph_without_a_recording_says_so(config: Path, tmp_path: Path) -> None:
    done = autoscaler(config, "plot", "--png", str(tmp_path / "graph.png"))
    assert (done.returncode, "no recording" in done.stderr) == (1, True)


def test_the_window_without_a_display_says_how_to_get_a_picture(config: Path) -> None:
    done = autoscaler(config, "plot", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 1
    assert "--png" in done.stderr


def test_keys_are_never_overwritten(config: Path, tmp_path: Path) -> None:
    first = autoscaler(config, "keys", str(tmp_path / "keys"))
    second = autoscaler(config, "keys", str(tmp_path / "keys"))
    assert (first.returncode, second.returncode) == (0, 2)
    assert "not empty" in second.stderr


def test_a_taken_port_is_refused_with_group_and_address() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(AutoscalerError, match=rf"groups.web.endpoint: 127.0.0.1:{port} cannot be used"):
            check_addresses_are_free(one_group(f"127.0.0.1:{port}"))
        listen = Metrics(haproxy_listen=f"127.0.0.1:{port}")
        with pytest.raises(AutoscalerError, match=rf"metrics.haproxy_listen: 127.0.0.1:{port} cannot be used"):
            check_addresses_are_free(one_group("127.0.0.1:1").model_copy(update={"metrics": listen}))


def test_an_address_that_is_not_this_machines_is_refused() -> None:
    with pytest.raises(AutoscalerError, match="cannot be used"):
        check_addresses_are_free(one_group("192.0.2.1:8000"))


def one_group(endpoint: str) -> Config:
    return Config(groups={"web": Group(prefix="web-", endpoint=endpoint)})


def test_what_was_made_or_checked_can_be_read_by_a_program(config: Path, tmp_path: Path) -> None:
    made = json.loads(autoscaler(config, "keys", str(tmp_path / "keys"), "--json").stdout)
    assert f"{tmp_path}/keys/services/decider.key" in made["files"]
    checked = json.loads(autoscaler(config, "config", "check", "--json").stdout)
    assert (checked["path"], checked["groups"]) == (str(config), ["web"])


def test_keys_of_before_are_given_roles_in_place_and_one_says_what_that_means(config: Path, tmp_path: Path) -> None:
    keys = old_directory(tmp_path)
    told = autoscaler(config, "keys", str(keys)).stdout
    assert "keys that were authorized before listen from now on" in told
    assert f"autoscaler keys {keys} --order NAME" in told
    assert autoscaler(config, "keys", str(keys), "--order", "laptop").returncode == 0
    assert (keys / "orders" / "laptop.key").exists()
    again = autoscaler(config, "keys", str(keys))
    assert again.returncode == 2
    assert "keys are never overwritten" in again.stderr
    assert autoscaler(config, "keys", str(keys), "--order", "a", "--client", "b").returncode == 2


@pytest.mark.parametrize("args", [["bounds", "--reset", "--min", "1"], ["bounds"]])
def test_bounds_are_set_or_reset(config: Path, args: list[str]) -> None:
    done = autoscaler(config, *args)
    assert (done.returncode, "--reset alone" in done.stderr) == (2, True)
