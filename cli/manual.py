"""The manual page and the shells' completions, made from the commands themselves: ``python -m cli.manual``."""

import re
from collections.abc import Iterator
from typing import Any, Final

import typer.main
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # public, and not listed

from cli.main import app
from common import __version__
from common.config_environment import PREFIX
from common.config_places import DIRECTORY, NAME, SYSTEM_PATH, VARIABLE

COMPLETIONS: Final = {
    "bash": "bash-completion/completions/autoscaler",
    "zsh": "zsh/site-functions/_autoscaler",
    "fish": "fish/vendor_completions.d/autoscaler.fish",
}
"""Where each shell looks, below ``PREFIX/share``."""

EXIT_CODES: Final = {
    "0": "done, or a clean stop",
    "1": "an error, or an order that was refused",
    "2": "wrong usage, or a wrong configuration",
    "3": "doctor has found an error; a warning is 1",
    "75": "another copy of the service runs",
    "130": "ended by Ctrl-C",
    "143": "ended by SIGTERM",
}

VARIABLES: Final = (
    "Sets a key, whatever the file says: AUTOSCALER_GROUPS__WEB__MAX=6 is groups.web.max. Two underscores part tables; "
    "an entry of a list goes by its number; - in a name is written _."
)


def completion(shell: str) -> str:
    """Return the script that has ``shell`` complete the command."""
    return f"{get_completion_script(prog_name='autoscaler', complete_var='_AUTOSCALER_COMPLETE', shell=shell)}\n"


def manual() -> str:
    """Return the page ``autoscaler(1)``, in the man macros."""
    root = typer.main.get_command(app)
    lines = [
        f'.TH AUTOSCALER 1 "" "libvirt-autoscaler {__version__}" "User Commands"',
        ".SH NAME",
        r"autoscaler \- auto-scaling groups of virtual machines for plain libvirt",
        ".SH SYNOPSIS",
        ".B autoscaler",
        r"[\fB\-\-config\fR \fIFILE\fR] \fICOMMAND\fR [\fIARGUMENT\fR\|.\|.\|.]",
        ".SH DESCRIPTION",
        _text("Operates groups of libvirt domains that grow under load, shrink when idle and replace what fails."),
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
        *_commands(root, ""),
        ".SH ENVIRONMENT",
        *_tagged(VARIABLE, "The configuration file, where --config names none."),
        *_tagged(f"{PREFIX}TABLE__KEY", VARIABLES),
        ".SH FILES",
        _text("Without --config and its variable, the first of these that is there:"),
        *_tagged(f"./{NAME}", "of the present directory"),
        *_tagged(f"$XDG_CONFIG_HOME/{DIRECTORY}/{NAME}", "of the user; ~/.config/… where that is not set"),
        *_tagged(str(SYSTEM_PATH), "of the machine"),
        ".SH EXIT STATUS",
        *(line for code, meaning in EXIT_CODES.items() for line in _tagged(code, meaning)),
        ".SH SEE ALSO",
        r".BR haproxy (1), .BR libvirtd (8), .BR systemctl (1)".replace(", .BR", ",\n.BR"),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _commands(group: Any, prefix: str) -> Iterator[str]:
    """Yield the entries of the group's commands, those of its subgroups among them."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
            continue
        yield f".SS {_plain(prefix + name)}{_arguments(command)}"
        yield _text(command.help or "")
        yield from _options(command)
        yield from _examples(command.epilog or "")


def _arguments(command: Any) -> str:
    names = [(p.name.upper(), p.required) for p in command.params if p.param_type_name == "argument"]
    return "".join(f" {_plain(name) if needed else '[' + _plain(name) + ']'}" for name, needed in names)


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        words = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument":
            yield from _tagged(parameter.name.upper(), parameter.help or "")
        elif not parameter.hidden:
            value = "" if parameter.is_flag else f" {(parameter.metavar or parameter.name).upper()}"
            yield from _tagged(", ".join(words) + value, parameter.help or "")


def _examples(epilog: str) -> Iterator[str]:
    lines = [_text(line) for line in re.findall(r"`([^`]+)`", epilog)]
    if lines:
        yield from (".PP", ".RS", ".EX", *lines, ".EE", ".RE")


def _tagged(tag: str, text: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{_plain(tag)}\fR", _text(text) if text else r"\&")


def _text(text: str) -> str:
    """Return text as a line that begins no macro, without the marks of Markdown."""
    plain = _plain(" ".join(text.replace("`", "").replace("**", "").split()))
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


def _plain(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return "".join(char if char.isascii() else rf"\[u{ord(char):04X}]" for char in escaped)


if __name__ == "__main__":
    print(manual(), end="")
