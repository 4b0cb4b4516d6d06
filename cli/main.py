"""The operator's command. Each command imports what it needs when it runs, so that ``--help`` is quick."""

import io
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cli.refusals import told
from common.config_places import ORDER
from common.errors import AutoscalerError, NoAnswerError

if TYPE_CHECKING:
    from cli.in_force import Usable


class Commands(TyperGroup):
    """The commands; an option that belongs before them is told so where it is found after one."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a wrong command line is an error of typer's, which has no public name."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            option = getattr(error, "option_name", None)
            if option in ("--config", "-c") and hasattr(error, "message"):
                error.message = f"{option} comes before the command: autoscaler {option} FILE {ctx.invoked_subcommand}"
            raise


app = typer.Typer(
    name="autoscaler",
    cls=Commands,
    help="Auto-scaling groups of virtual machines for plain libvirt.",
    no_args_is_help=True,
    epilog=f"**Configuration**\n\nwithout --config, the first that is there of: {ORDER}\n\n"
    "AUTOSCALER_TABLE__KEY=VALUE in the environment sets a key; see: `autoscaler config show`",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
GroupArgument = Annotated[str | None, typer.Argument(help="The group; may be left out where there is only one.")]
_state: dict[str, Path | None] = {"config": None}
_usable: "list[Usable]" = []
NEED_NO_FILE = ("simulate", "replay", "keys")
ASK_TIMEOUT_S = 3.0
MOST_DOMAINS = 1000  # of a group, as in its table
MOST_EVENTS = 100_000


def _examples(*lines: str) -> str:
    return "**Examples**\n\n" + "\n\n".join(f"`autoscaler {line}`" for line in lines)


def _print_version(wanted: bool) -> None:
    if wanted:
        from common import __version__

        print(f"autoscaler {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="The configuration file; where it is looked for, see below."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    _state["config"] = config
    if config is not None and context.invoked_subcommand in NEED_NO_FILE:
        from common.config_file import load as load_config

        load_config(config)  # whoever names a file means it


def main() -> int:
    """Run the command; return its exit code.

    0 ok, 1 error, 2 usage or configuration, 75 another copy runs, 130 on Ctrl-C, 143 on SIGTERM.
    """
    signal.signal(signal.SIGTERM, _on_terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows another one
    try:
        with told():
            app(prog_name="autoscaler", standalone_mode=True)
    except AutoscalerError as error:
        print(f"autoscaler: {error}", file=sys.stderr)
        if isinstance(error, NoAnswerError):
            print(f"autoscaler: {_why_silent()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    """End like any program, but through ``finally``: what a command began is put away."""
    raise SystemExit(143)


# --- what is ------------------------------------------------------------------------------------------------------


@app.command(epilog=_examples("status", "status --watch", "status --json", "status --watch --json"))
def status(
    as_json: JsonFlag = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep showing it, live; with --json a line each second. Ctrl-C ends.")
    ] = False,
) -> None:
    """Show groups, domains and services. Exit code 1 where nobody answers."""
    from cli.observe import observe_once
    from cli.status import status_values, status_view
    from common.clock import SystemClock

    config, digest = _loaded()
    if watch:
        _watch(config, as_json=as_json)
        return
    snapshot = observe_once(config, SystemClock())
    if as_json:
        _print_json(status_values(config, snapshot, digest))
    else:
        _rich_print(status_view(config, snapshot, digest))
    if not snapshot.services:
        raise AutoscalerError(_why_silent())


def _watch(config: Any, *, as_json: bool) -> None:
    from rich.live import Live

    from cli.observe import Observer
    from cli.status import status_values, status_view
    from common.clock import SystemClock

    observer = Observer(config, SystemClock())
    is_told = False
    try:
        if as_json:
            for snapshot in observer.follow():
                if not snapshot.services and not is_told:
                    print(f"autoscaler: {_why_silent()}", file=sys.stderr)
                    is_told = True
                print(json.dumps(status_values(config, snapshot, _digest()), ensure_ascii=False), flush=True)
        else:
            with Live(auto_refresh=False, screen=sys.stdout.isatty()) as live:
                for snapshot in observer.follow():
                    reason = "" if snapshot.services else _why_silent()
                    live.update(status_view(config, snapshot, _digest(), reason), refresh=True)
    except KeyboardInterrupt:
        pass
    finally:
        observer.close()


@app.command(epilog=_examples("explain", "explain web --at 14:03:20", "explain --since 15m", "explain web --json"))
def explain(
    group: GroupArgument = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="A recorded tick: 14:03:20 of today (local; or 14:03:20 UTC), 2026-11-22T14:03:20, or epoch seconds."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Every change of the outcome since: 90s, 15m, 2h, 1d ago.")] = None,
    each_tick: Annotated[bool, typer.Option("--ticks", help="With --since: every tick, not only changes.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say why the group did, or did not, scale, and what would change it: now, or at any recorded time."""
    from cli.explain import run

    name = _group(group)
    run(_load(), _usable_path(), name, _operator(), at=at, since=since, each_tick=each_tick, as_json=as_json)


@app.command(epilog=_examples("events", "events --since 15m", "events --follow"))
def events(
    since: Annotated[str, typer.Option(help="How far back: 90s, 15m, 2h, 1d.")] = "1h",
    limit: Annotated[int, typer.Option(min=1, max=MOST_EVENTS, help="At most this many, the newest.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new ones; Ctrl-C ends.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List what happened: scaling, starts, failures, drains, the operator's orders."""
    from cli.events import print_events

    print_events(_load(), since, limit, MOST_EVENTS, follow=follow, as_json=as_json, why_silent=_why_silent)


# --- what shall be --------------------------------------------------------------------------------------------------


@app.command(epilog=_examples("scale 3", "scale 3 --group web"))
def scale(
    desired: Annotated[int, typer.Argument(min=0, max=MOST_DOMAINS, help="How many domains the group shall have now.")],
    group: Annotated[str | None, typer.Option("--group", "-g", help="The group.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the desired capacity once; the policies go on from there. Refused outside the bounds."""
    _order("decider", "scale", as_json, group=_group(group), desired=desired)


@app.command(epilog=_examples("bounds --min 2", "bounds --max 6 --group web", "bounds --reset"))
def bounds(
    minimum: Annotated[int | None, typer.Option("--min", min=0, max=MOST_DOMAINS, help="The new lower bound.")] = None,
    maximum: Annotated[int | None, typer.Option("--max", min=1, max=MOST_DOMAINS, help="The new upper bound.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the bounds of the configuration.")] = False,
    group: Annotated[str | None, typer.Option("--group", "-g", help="The group.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Change the group's bounds until they are changed again, whatever the configuration says; or end that."""
    is_given = minimum is not None or maximum is not None
    if is_given == reset:
        raise typer.BadParameter("give --min, --max or both; or --reset alone")
    bounds = {"reset": True} if reset else {"min": minimum, "max": maximum}
    _order("decider", "bounds", as_json, group=_group(group), **bounds)


@app.command(epilog=_examples("patience --reset", "patience web --reset"))
def patience(
    group: GroupArgument = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what the undone scale-in taught.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """End the patience that a group learned from a scale-in that had to be undone; `status` shows it while it lasts."""
    if not reset:
        raise typer.BadParameter("give --reset; status and explain show the patience in force")
    _order("decider", "patience", as_json, group=_group(group), reset=True)


@app.command(epilog=_examples("mode observe", "mode on --group web"))
def mode(
    mode: Annotated[Literal["on", "off", "observe", "out-only"], typer.Argument(help="How, see above.")],
    group: Annotated[str | None, typer.Option("--group", "-g", help="The group.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set how the group is scaled: fully, not at all, only on paper, or only out."""
    _order("decider", "mode", as_json, group=_group(group), mode=mode)


@app.command(epilog=_examples("pause", "pause web"))
def pause(group: GroupArgument = None, as_json: JsonFlag = False) -> None:
    """Freeze the desired capacity; failed domains are still replaced."""
    _order("decider", "pause", as_json, group=_group(group))


@app.command(epilog=_examples("resume", "resume web"))
def resume(group: GroupArgument = None, as_json: JsonFlag = False) -> None:
    """Let a paused group scale again."""
    _order("decider", "resume", as_json, group=_group(group))


@app.command(epilog=_examples("protect web-0000", "protect web-0000 --off"))
def protect(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    off: Annotated[bool, typer.Option("--off", help="Take the protection away.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Keep a domain from being chosen when the group shrinks."""
    _order("actuator", "unprotect" if off else "protect", as_json, domain=domain)


@app.command(epilog=_examples("drain web-0001", "drain web-0001 --force", "drain web-0001 --cancel"))
def drain(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it is protected, or nobody else serves.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Return a draining domain to service.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Take a domain out of rotation and stop it; the group replaces it if it still needs it."""
    if force and cancel:
        raise typer.BadParameter("--force and --cancel contradict each other")
    if cancel:
        _order("actuator", "undrain", as_json, domain=domain)
    else:
        _order("actuator", "drain", as_json, domain=domain, force=force)


@app.command(epilog=_examples("replace web-0001"))
def replace(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    as_json: JsonFlag = False,
) -> None:
    """Replace a domain as if it had failed: a new one first where the ceiling allows it."""
    _order("actuator", "replace", as_json, domain=domain)


@app.command("reload", epilog=_examples("reload", "reload --json"))
def reload_(as_json: JsonFlag = False) -> None:
    """Have every service take over changed bounds, policies and timeouts, without a restart; by all or by none."""
    from cli.reload import reload

    found = reload(_config_path(), _operator(), why_silent=_why_silent)
    if as_json:
        _print_json(found.values())
    else:
        print(found.text())
    if not found.is_applied:
        raise typer.Exit(1)


# --- pictures and trials ------------------------------------------------------------------------------------------


@app.command(epilog=_examples("plot", "plot --png graph.png", "plot --png graph.png --minutes 30"))
def plot(
    png: Annotated[Path | None, typer.Option(help="Write a PNG file; needs no display.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write an SVG file; needs no display.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=10080, help="How many minutes back.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """Open the live graph, or draw the last minutes into a file."""
    from cli.graph import draw_files, open_window

    config = _load()
    if png is None and svg is None:
        raise typer.Exit(open_window(_usable_path()))
    files = [path for path in (png, svg) if path is not None]
    draw_files(config, minutes, files)
    _print_files(files, as_json)


@app.command(epilog=_examples("load --level high", "load --period 0.3", "load --level low   (in a second terminal)"))
def load(
    level: Annotated[str, typer.Option(help="low | mid | high")] = "mid",
    period: Annotated[float | None, typer.Option(min=0.001, max=60, help="Seconds between requests.")] = None,
    n: Annotated[int | None, typer.Option(min=0, help="The N of /compute?n=N.")] = None,
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="Stop after so long.")] = 3600,
    group: Annotated[str | None, typer.Option("--group", "-g", help="The group.")] = None,
    web: Annotated[int | None, typer.Option(min=1, max=65535, help="Serve locust's web page at this port.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send requests to the endpoint, on schedule whether or not answers come. A second call changes the level.

    An endpoint that does not answer once in the first seconds is given up, with exit code 1.
    """
    from cli.load import run_load

    wanted = (_load(), _group(group), level, period, n, seconds, web)
    raise typer.Exit(run_load(*wanted, as_json=as_json, what_to_do=_what_to_do_unserved))


@app.command(
    epilog=_examples(
        "simulate --trace trace.csv --requests-per-domain 5000 --lead-time 60",
        "simulate --trace trace.csv --requests-per-domain 5000 --lead-time 60 --sweep headroom=auto --png curve.png",
        "simulate --synthetic diurnal --requests-per-domain 100 --lead-time 60 --json",
    )
)
def simulate(
    requests_per_domain: Annotated[float, typer.Option(help="Requests that one domain serves in one step.")],
    lead_time: Annotated[float, typer.Option(help="Seconds from a decision to its supply.")],
    trace: Annotated[Path | None, typer.Option(help="CSV with t_seconds,requests.")] = None,
    synthetic: Annotated[str | None, typer.Option(help="diurnal | spike | ramp | noise | sawtooth")] = None,
    seed: Annotated[int, typer.Option(help="The seed of the synthetic load.")] = 1,
    headroom: Annotated[float | None, typer.Option(help="How much to spare, >= 0.")] = None,
    sweep: Annotated[str | None, typer.Option(help="headroom=a,b,c or headroom=auto: the trade-off curve.")] = None,
    config: Annotated[Path | None, typer.Option(help="Decide by a group of this file instead.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="The group of that file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Drive the deciding core with a request-rate trace, in virtual time."""
    from cli.simulate import run

    run(
        trace_path=trace,
        synthetic=synthetic,
        seed=seed,
        requests_per_domain=requests_per_domain,
        lead_time_s=lead_time,
        headroom=headroom,
        sweep=sweep,
        config=config or _state["config"],
        group=group,
        as_json=as_json,
        png=png,
    )


@app.command(
    epilog=_examples(
        "replay /var/lib/libvirt-autoscaler",
        "replay 000041-1795374000-1795375080.rec.xz --group web --json",
        "replay /var/lib/libvirt-autoscaler --policy other.toml --png both.png",
    )
)
def replay(
    recording: Annotated[Path, typer.Argument(help="A recording's directory, a state directory, or one segment.")],
    policy: Annotated[Path | None, typer.Option(help="Try this configuration's group over the recorded load.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this group.")] = None,
    png: Annotated[Path | None, typer.Option(help="With --policy: draw both sides into this PNG or SVG file.")] = None,
    lead_time: Annotated[
        float | None, typer.Option(help="With --policy: seconds from a decision to serving; default: as recorded.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the decider over a recording: does it repeat every decision? What would another policy have done?

    Exit code 0: every decision that can be repeated is identical, byte for byte; 1: one is not.
    """
    if policy is None:
        from cli.replay import run

        if png is not None or lead_time is not None:
            raise typer.BadParameter("--png and --lead-time go with --policy")
        raise typer.Exit(run(_path_of_settings(), recording, group, as_json=as_json))
    from cli.replay_policy import run as try_policy

    raise typer.Exit(try_policy(_path_of_settings(), recording, policy, group, lead_time, png, as_json=as_json))


@app.command(epilog=_examples("doctor", "doctor --group web --json", "doctor --prove"))
def doctor(
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this group, and the hosts it uses.")] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Boot guests of our own: KVM, each group's image, the power button.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what keeps the hosts and groups from working, why it matters, and how to mend it. Changes nothing.

    Exit code 0: nothing to mend; 1: warnings; 3: something does not work; 2: the configuration is wrong.
    """
    from cli.doctor.finding import exit_code
    from cli.doctor.judge_configuration import judge_configuration
    from cli.doctor.page import page, values
    from cli.doctor.run import examine
    from common.clock import SystemClock

    config, digest = _loaded()
    if group is not None:
        _group(group)
    findings = [
        *judge_configuration(_configuration().fault),
        *examine(config, digest, SystemClock(), group, is_proving=prove, path=_usable_path()),
    ]
    if as_json:
        _print_json(values(findings))
    else:
        _rich_print(page(findings), soft_wrap=True)
    raise typer.Exit(exit_code(findings))


# --- the installation ---------------------------------------------------------------------------------------------


@app.command(epilog=_examples("up", "--config /etc/libvirt-autoscaler/autoscaler.toml up", "up --runtime compose"))
def up(
    runtime: Annotated[
        Literal["native", "compose"],
        typer.Option(help="native: under supervisord; compose: in containers (docker-compose.yml)."),
    ] = "native",
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Even if the changed file interrupts service or fails those that serve now, or another tree runs.",
        ),
    ] = False,
) -> None:
    """Start everything; end when the endpoint answers (what `make up` does after installing packages)."""
    from common.clock import SystemClock

    if runtime == "compose":
        from cli.compose import up as bring_up
    else:
        from cli.stack import up as bring_up
    os.umask(0o022)  # what others are to reach is not for the caller's umask to hide
    bring_up(_config_path(), SystemClock(), is_forced=force)


@app.command(epilog=_examples("down", "down --everything"))
def down(
    everything: Annotated[
        bool, typer.Option("--everything", help="Images, network, recordings and sockets too.")
    ] = False,
    discard_saved: Annotated[
        bool,
        typer.Option(
            "--discard-saved", help="Also domains that somebody has suspended or saved; their memory is lost."
        ),
    ] = False,
) -> None:
    """Stop the services and the domains that they created, as they were started: natively or in containers."""
    from cli.shared_dirs import are_shared
    from cli.stack import require_root
    from cli.turn import turn
    from common.clock import SystemClock

    system = _load().system
    require_root()
    clock = SystemClock()
    with turn(system, "down", clock):
        if are_shared(system):
            from cli.compose import down as bring_down
        else:
            from cli.stack import down as bring_down
        bring_down(_usable_path(), clock, everything=everything, discard_saved=discard_saved)


@app.command(epilog=_examples("image"))
def image() -> None:
    """Build the demo guest's image if it is not up to date."""
    from cli.console import Steps
    from cli.stack import build_image, prepare_directories
    from common.clock import SystemClock
    from common.config_file import load as load_config

    config, _digest = load_config(_config_path())
    os.umask(0o022)
    prepare_directories(config.system)
    steps = Steps(SystemClock(), 1)
    with steps.step("guest image"):
        steps.say(build_image(config, steps))


@app.command(
    epilog=_examples(
        "keys /etc/libvirt-autoscaler/keys",
        "keys /etc/libvirt-autoscaler/keys --client desktop",
        "keys /etc/libvirt-autoscaler/keys --order laptop",
    )
)
def keys(
    directory: Annotated[Path, typer.Argument(help="Where the keys are, or will be.")],
    client: Annotated[str | None, typer.Option(help="Add one more pair, whose key may listen.")] = None,
    order: Annotated[str | None, typer.Option(help="Add one more pair, whose key may listen and order.")] = None,
    is_split: Annotated[
        bool, typer.Option("--split", help="Give each service a pair of its own, where all share one.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make the CURVE keys for a bus that spans machines, or give a directory of an older release roles."""
    from common.keys import add_client, make_keys, split

    if (client is not None) + (order is not None) + is_split > 1:
        raise typer.BadParameter("give one of --client, --order and --split")
    name = client or order
    if name:
        made = add_client(directory, name, may_order=order is not None)
    else:
        made = split(directory) if is_split else make_keys(directory)
    _print_files(made.files, as_json)
    if made.note and not as_json:
        print(made.note)


@config_app.command("check", epilog=_examples("config check", "config check autoscaler.toml", "config check --json"))
def config_check(
    file: Annotated[Path | None, typer.Argument(help="The file; by default the one in use.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a configuration file, and the variables that set keys, without acting on it."""
    from cli.configuration import check

    checked = check(file or _config_path())
    if as_json:
        _print_json(checked.values())
    else:
        print(checked.text())


@config_app.command("show", epilog=_examples("config show", "config show groups.web", "config show --changed --json"))
def config_show(
    prefix: Annotated[str, typer.Argument(help="Only keys below this one, such as groups.web.")] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Leave out what has its default.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print every key with the value in force and where it comes from: a line of the file, a variable, the default."""
    from cli.configuration import settings, text

    path = _config_path()
    found = settings(path, prefix, is_default_shown=not changed)
    if as_json:
        _print_json([setting.values() for setting in found])
    else:
        print(text(found))


# --- shared -------------------------------------------------------------------------------------------------------


def _config_path() -> Path:
    """Return the file that ``--config`` names, or the first that is where it is looked for."""
    from common.config_places import chosen

    return chosen(_state["config"])


def _path_of_settings() -> Path:
    """Return the file for recordings that do not carry their settings; where there is none, the others need none."""
    try:
        return _config_path()
    except AutoscalerError:
        from common.config_places import NAME

        return Path(NAME).absolute()


def _configuration() -> "Usable":
    """Return that file, or what is in force while it is wrong; the warning is said once a command."""
    from cli.in_force import usable

    if not _usable:
        _usable.append(usable(_state["config"]))
    return _usable[0]


def _usable_path() -> Path:
    return _configuration().path


def _loaded() -> tuple[Any, str]:
    """Return the configuration that what runs is looked at with, and its digest."""
    from common.config_file import load as load_config

    return load_config(_usable_path())


def _load() -> Any:
    return _loaded()[0]


def _digest() -> str:
    """Return the digest of the configuration as it is now, empty while it has become wrong."""
    try:
        return _loaded()[1]
    except AutoscalerError:
        return ""


def _why_silent() -> str:
    """Return why nobody answers this command."""
    from cli.unreached import look, why

    try:
        return why(look(_load(), _usable_path()))
    except AutoscalerError as error:  # its file has just gone wrong
        return str(error)


def _what_to_do_unserved() -> str:
    """Return what helps where nobody listens at an endpoint."""
    from cli.unreached import look, why

    seen = look(_load(), _usable_path())
    return why(seen) if seen.is_known_stopped else "see autoscaler status"


def _group(name: str | None) -> str:
    groups = _load().groups
    if name is None and len(groups) == 1:
        return str(next(iter(groups)))
    if name not in groups:
        which = f"unknown group {name!r}" if name else "several groups: name one"
        raise typer.BadParameter(f"{which}; groups: {', '.join(groups)}")
    return str(name)


def _ask(service: str, verb: str, **args: Any) -> Any:
    from common.bus import ask
    from common.messages import Request

    reply = ask(_load(), service, Request(verb=verb, args=args, by=_operator()), ASK_TIMEOUT_S)
    if reply.status == "error":
        raise AutoscalerError(f"{service}: {reply.reason}")
    return reply


def _operator() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"


def _order(service: str, verb: str, as_json: bool, **args: Any) -> None:
    reply = _ask(service, verb, **args)
    if as_json:
        _print_json({"status": reply.status, "reason": reply.reason, **reply.data})
    else:
        print(f"{reply.status}: {reply.reason}" if reply.reason else reply.status)
    if reply.status != "applied":
        raise typer.Exit(1)


def _print_files(paths: Iterable[Path], as_json: bool) -> None:
    """Say which files were written."""
    if as_json:
        _print_json({"files": [str(path) for path in paths]})
    else:
        print(*paths, sep="\n")


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def _rich_print(view: Any, *, soft_wrap: bool = False) -> None:
    from rich.console import Console

    Console().print(view, soft_wrap=soft_wrap)
