"""Where the configuration is looked for, and in which order."""

from pathlib import Path

import pytest

from common import config_places
from common.config_places import chosen, find
from common.errors import ConfigError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return the three places, all of them empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(config_places, "SYSTEM_PATH", tmp_path / "etc" / "autoscaler.toml")
    return {
        "here": tmp_path / "here" / "autoscaler.toml",
        "xdg": tmp_path / "xdg" / "libvirt-autoscaler" / "autoscaler.toml",
        "home": tmp_path / "home" / ".config" / "libvirt-autoscaler" / "autoscaler.toml",
        "system": tmp_path / "etc" / "autoscaler.toml",
    }


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "xdg"), **more}


def test_the_first_place_that_has_a_file_wins(places: dict[str, Path], tmp_path: Path) -> None:
    for name in ("system", "xdg", "here"):
        write(places[name])
        assert find(environ(tmp_path)) == places[name]


def test_a_named_file_beats_the_variable_and_the_variable_beats_the_places(
    places: dict[str, Path], tmp_path: Path
) -> None:
    write(places["here"])
    variables = environ(tmp_path, AUTOSCALER_CONFIG="absent.toml")
    assert find(variables) == tmp_path / "here" / "absent.toml"
    assert chosen(Path("named.toml"), variables) == tmp_path / "here" / "named.toml"
    assert find(environ(tmp_path, AUTOSCALER_CONFIG="")) == places["here"]


@pytest.mark.parametrize("xdg", ["", "relative"])
def test_without_an_absolute_xdg_config_home_it_is_below_home(
    places: dict[str, Path], tmp_path: Path, xdg: str
) -> None:
    write(places["home"])
    assert find(environ(tmp_path) | {"XDG_CONFIG_HOME": xdg}) == places["home"]


def test_where_none_is_the_error_names_every_place(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find(environ(tmp_path))
    assert caught.value.exit_code == 2
    for path in (Path("autoscaler.toml"), places["xdg"], places["system"], Path("--config"), "$AUTOSCALER_CONFIG"):
        assert str(path) in str(caught.value)


def test_what_is_in_the_place_of_a_file_and_is_none_is_told(places: dict[str, Path], tmp_path: Path) -> None:
    places["here"].mkdir()
    places["xdg"].parent.mkdir(parents=True)
    places["xdg"].symlink_to("gone.toml")
    with pytest.raises(ConfigError) as caught:
        find(environ(tmp_path))
    said = str(caught.value)
    assert "autoscaler.toml (it is there, and is not a file), " in said
    assert f"{places['xdg']} (a link to gone.toml, which is not there), " in said
    assert f"{places['system']}; name one by --config FILE" in said
    write(places["system"])
    assert find(environ(tmp_path)) == places["system"]
