"""The tables [metrics] and [[notifications]]: every impossible value has its sentence."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import configuration
from common import config_file
from common.config import Config
from common.config_outputs import ALL_EVENTS, EVENT_CLASSES
from common.config_schema import is_secret, table_in
from common.config_table import SECRET, Table
from common.errors import ConfigError

GROUP = '[groups.web]\nprefix = "web-"\n'


def parse(text: str) -> Config:
    return config_file.parse((GROUP + text).encode(), "f.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[metrics]\nlisten = "9464"', "metrics.listen: must be ADDRESS:PORT"),
        ('[metrics]\nlisten = "localhost:9464"', "metrics.listen: must be ADDRESS:PORT"),
        ('[metrics]\nhaproxy_listen = "127.0.0.1:0"', "metrics.haproxy_listen: the port must be in 1..65535"),
        ('[metrics]\nlisten = "*:8000"', "metrics.listen clashes with groups.web.endpoint"),
        ('[metrics]\nhaproxy_listen = "127.0.0.1:9464"', "listen and haproxy_listen clash"),
        ('[metrics]\nhaproxy_listen = "*:9464"', "listen and haproxy_listen clash"),
        ('[metrics]\nlisten = "0.0.0.0:8000"', "metrics.listen clashes with groups.web.endpoint"),
        ('[metrics]\nhaproxy_listen = "[::1%lo\\n bind *:1]:8405"', "metrics.haproxy_listen: must be ADDRESS:PORT"),
        ("[metrics]\nport = 1", "metrics.port: unknown key"),
        ("[[notifications]]\nretries = 1", "notifications.0: needs either url or command; got neither"),
        ('[[notifications]]\nurl = "http://x"\ncommand = ["/x"]', "needs either url or command; got both"),
        ('[[notifications]]\nurl = "ftp://x"', "notifications.0.url: must be http://HOST"),
        ('[[notifications]]\nurl = "http://"', "notifications.0.url: must be http://HOST"),
        ('[[notifications]]\nurl = "http://x/ä b"', "notifications.0.url: must be http://HOST"),
        ('[[notifications]]\nurl = "http://x:99999/"', "notifications.0.url: must be http://HOST"),
        ('[[notifications]]\nurl = "http://x/\\r\\nHost: y"', "notifications.0.url: must be http://HOST"),
        ('[[notifications]]\ncommand = ["tell"]', "notifications.0.command: must begin with the absolute path"),
        ('[[notifications]]\ncommand = ["/x", "a\\u0000b"]', "notifications.0.command: must not contain"),
        ('[[notifications]]\ncommand = ["/x"]\nsecret_file = "/s"', "secret_file is for a url"),
        ('[[notifications]]\nurl = "http://x"\nsecret_file = "s"', "secret_file: must be an absolute path"),
        ('[[notifications]]\nurl = "http://x"\nevents = ["scal"]', "events: unknown scal; allowed: all, scale, "),
        ('[[notifications]]\nurl = "http://x"\nevents = []', "notifications.0.events: "),
        ('[[notifications]]\nurl = "http://x"\ntimeout_s = 0', "notifications.0.timeout_s: "),
        ('[[notifications]]\nurl = "http://x"\nretries = -1', "notifications.0.retries: "),
        ('[[notifications]]\nurl = "http://x"\ngroups = ["db"]', "['db'] are not defined; defined: ['web']"),
        ('[[notifications]]\nurl = "http://x"\nname = "A b"', "notifications.0.name: "),
        ('[[notifications]]\nurl = "http://x"\nurll = ""', "unknown key; did you mean 'url'?"),
        (2 * '[[notifications]]\nurl = "http://x"\nname = "a"\n', "every name must be given once"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("f.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listen", ["", "127.0.0.1:9464", "*:9464", "[::1]:9464", "0.0.0.0:1"])
def test_addresses_as_people_write_them(listen: str) -> None:
    assert parse(f'[metrics]\nlisten = "{listen}"').metrics.listen == listen


def test_defaults_tell_of_scale_failure_and_breaker() -> None:
    told = parse('[[notifications]]\nurl = "https://example.org:8443/hook?a=1"').notifications[0]
    assert (told.events, told.retries, told.timeout_s) == (("scale", "failure", "breaker"), 8, 5.0)
    assert "service-restarted" in EVENT_CLASSES["failure"], "a service that died is told by default"


def test_no_name_of_an_event_is_the_name_of_a_class() -> None:
    names = [name for names in EVENT_CLASSES.values() for name in names]
    assert len(set(names)) == len(names)
    assert not {ALL_EVENTS, *EVENT_CLASSES} - {"operator"} & set(names)


def test_every_event_that_a_service_tells_can_be_asked_for() -> None:
    said = re.compile(r'(?:_say\(step|self\._event\(|News\(|Event\(name=)[,\s]*"([a-z]+-[a-z-]+)"')
    root = Path(__file__).resolve().parents[2]
    sources = [*(root / "services").rglob("*.py"), *(root / "common").rglob("*.py")]
    found = {name for path in sources for name in said.findall(path.read_text(encoding="utf-8"))}
    known = {name for names in EVENT_CLASSES.values() for name in names}
    assert {"domain-failed", "config-refused"} <= found
    assert found - known == {"notification-lost"}, "add it to EVENT_CLASSES and to docs/notifications.md"


TOKEN = "t0ken-that-lets-others-in"  # noqa: S105 - made up


@pytest.mark.parametrize(
    "text",
    [
        f"url = 'ftp://hooks.example.com/{TOKEN}'",
        f"url = ['https://hooks.example.com/{TOKEN}']",
        f"url = 'https://hooks.example.com/{TOKEN}'\ncommand = ['/bin/tell', '{TOKEN}']",
        f"command = ['tell', '{TOKEN}']",
        f"command = '/bin/tell {TOKEN}'",
        f"command = [['{TOKEN}']]",
        f"urrl = 'https://hooks.example.com/{TOKEN}'",
        f"url = 'https://hooks.example.com/ {TOKEN}'",
        f"url = 'https://hooks.example.com/{TOKEN}'\nretries = 99",
        f"url = 'https://hooks.example.com/{TOKEN}'\nevents = []",
    ],
)
def test_no_error_of_the_configuration_shows_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f"[[notifications]]\n{text}\n")
    cause = raised.value.__cause__
    assert "notifications" in str(raised.value)
    assert TOKEN not in str(raised.value) and TOKEN not in str(cause)


@pytest.mark.parametrize("wrong", [f"notifications = 'https://{TOKEN}'", f"notifications = ['https://{TOKEN}']"])
def test_no_table_that_holds_a_secret_is_shown_where_it_is_none(wrong: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config_file.parse(f"{wrong}\n{GROUP}".encode(), "a.toml")
    assert TOKEN not in str(raised.value)


def test_a_variable_that_meets_a_secret_does_not_show_it(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"notifications = 'https://{TOKEN}'\n{GROUP}")
    with pytest.raises(ConfigError) as raised:
        config_file.read(path, {"AUTOSCALER_NOTIFICATIONS__0__RETRIES": "2"})
    assert TOKEN not in str(raised.value)
    path.write_text(GROUP)
    with pytest.raises(ConfigError) as raised:
        config_file.read(path, {"AUTOSCALER_NOTIFICATIONS__0__URL": f"gopher://{TOKEN}"})
    assert "AUTOSCALER_NOTIFICATIONS__0__URL" in str(raised.value) and TOKEN not in str(raised.value)


def test_config_show_hides_secrets_and_shows_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        f"{GROUP}\n[[notifications]]\nname = 'pager'\nurl = 'https://hooks.example.com/{TOKEN}'\n"
        f"[[notifications]]\ncommand = ['/bin/tell', '{TOKEN}']\n"
    )
    found = configuration.settings(path)
    shown = configuration.text(found) + json.dumps([setting.values() for setting in found])
    assert TOKEN not in shown
    assert 'notifications.0.name = "pager"' in shown and "notifications.0.url" in shown


def test_the_keys_that_may_hold_a_secret_are_marked() -> None:
    def tables(table: type[Table]) -> Iterator[type[Table]]:
        yield table
        for field in table.model_fields.values():
            below = table_in(field.annotation)
            if below is not None and below is not table:
                yield from tables(below)

    marked = {
        f"{table.__name__}.{name}"
        for table in tables(Config)
        for name, field in table.model_fields.items()
        if SECRET in field.metadata
    }
    assert marked == {"Notification.url", "Notification.command", "Readiness.headers"}
    assert is_secret(("groups", "web", "readiness", "headers", "Authorization"))
    assert not is_secret(("groups", "web", "max")) and is_secret(("groups", "web", "readiness", "heades"))
