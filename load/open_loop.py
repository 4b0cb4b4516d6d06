"""Requests on schedule, whether or not answers come, with locust's clients and statistics.

One locust user keeps the schedule and hands each request to a greenlet of its own, so that a slow answer never delays
the next request: a closed loop would hide exactly the waiting that an autoscaler is there for. Run as
``python -m load.open_loop``; it must be the first to import gevent.
"""

import gevent.monkey

gevent.monkey.patch_all()

import argparse  # noqa: E402 - nothing may be imported before the patch
import json  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from locust import FastHttpUser, constant, task  # noqa: E402
from locust.env import Environment  # noqa: E402

from common.clock import SystemClock  # noqa: E402
from load import levels  # noqa: E402
from load.hope import is_hopeless  # noqa: E402

MAX_IN_FLIGHT = 2000
CLOCK = SystemClock()


class Progress:
    """What the running load knows of itself, beside locust's statistics."""

    def __init__(self, control: Path) -> None:
        self.control = control
        self.level = levels.read(control) or levels.choose("mid", None, None)
        self.in_flight = 0
        self.scheduled = 0
        self.not_sent = 0
        self.served_by: dict[str, int] = {}
        self.is_answered = False


class OpenLoop(FastHttpUser):
    """One user that sends a request every ``period_s`` of the present level."""

    abstract = True
    wait_time = constant(0)
    concurrency = MAX_IN_FLIGHT
    connection_timeout = 10.0
    network_timeout = 30.0
    progress: Progress

    @task
    def keep_schedule(self) -> None:
        """Send what is due, for ever; a late schedule catches up instead of skipping."""
        due_s = CLOCK.monotonic_s()
        while True:
            level = self.progress.level
            if self.progress.in_flight >= MAX_IN_FLIGHT:
                self.progress.not_sent += 1
            else:
                gevent.spawn(self._send, level.n)
            self.progress.scheduled += 1
            due_s += level.period_s
            gevent.sleep(max(0.0, due_s - CLOCK.monotonic_s()))

    def _send(self, n: int) -> None:
        progress = self.progress
        progress.in_flight += 1
        try:
            with self.client.get(f"/compute?n={n}", name="/compute", catch_response=True) as response:
                progress.is_answered = progress.is_answered or response.status_code != 0
                if response.status_code == 0:
                    response.failure(f"no answer: {response.error}")
                elif response.status_code != 200:
                    response.failure(f"HTTP {response.status_code}")
                elif response.text.strip() != str(pow(2, n, 1021)):
                    response.failure("wrong result")
                else:
                    who = (response.headers or {}).get("X-Served-By", "?")
                    progress.served_by[who] = progress.served_by.get(who, 0) + 1
        finally:
            progress.in_flight -= 1


def main() -> int:
    """Run until the time is over or a signal comes; return 0 if no request failed, 1 otherwise."""
    args = _arguments()
    progress = Progress(args.control)

    class User(OpenLoop):
        host = args.url

    User.progress = progress
    environment = Environment(user_classes=[User])
    runner = environment.create_local_runner()
    if args.web:
        del sys.argv[1:]  # locust's page reads the command line too, and would take our words for its own
        environment.create_web_ui("127.0.0.1", args.web)
        print(f"locust's web page: http://127.0.0.1:{args.web}/", flush=True)
    stop = gevent.event.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stop.set)
    runner.start(1, spawn_rate=1)
    _report_until(stop, environment, progress, args)
    runner.quit()
    _print_summary(environment, progress, as_json=args.json)
    return 1 if environment.stats.total.num_failures or progress.not_sent else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--web", type=int)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _report_until(stop: Any, environment: Environment, progress: Progress, args: argparse.Namespace) -> None:
    """Print a line a second, and take over a new level, until ``stop``, the end of the time, or of all hope."""
    start_s = CLOCK.monotonic_s()
    out = sys.stderr if args.json else sys.stdout
    print("   time  level   asked/s     sent   failed  in flight    p50    p95    p99  served by", file=out, flush=True)
    while not stop.wait(1.0):
        now_s = CLOCK.monotonic_s() - start_s
        level = levels.read(progress.control)
        if level is not None and level != progress.level:
            progress.level = level
            print(f"-- now {level.name}: a request every {level.period_s:g} s, n={level.n}", file=out, flush=True)
        print(_line(now_s, environment, progress), file=out, flush=True)
        progress.served_by.clear()
        failed = environment.stats.total.num_failures
        if is_hopeless(now_s, failed, progress.in_flight, is_answered=progress.is_answered):
            print(f"given up: {args.url} has not answered once in {now_s:.0f} s", file=sys.stderr, flush=True)
            return
        if now_s >= args.seconds:
            return


def _line(now_s: float, environment: Environment, progress: Progress) -> str:
    total = environment.stats.total
    percentiles = [_milliseconds(total.get_current_response_time_percentile(q)) for q in (0.5, 0.95, 0.99)]
    served = " ".join(f"{name}:{count}" for name, count in sorted(progress.served_by.items()))
    return (
        f"{now_s:6.0f} s  {progress.level.name:<6} {1 / progress.level.period_s:8.1f} {total.num_requests:8d} "
        f"{total.num_failures + progress.not_sent:8d} {progress.in_flight:10d} {' '.join(percentiles)}  {served}"
    )


def _milliseconds(value: float | None) -> str:
    return "     -" if value is None else f"{value:4.0f}ms"


def _print_summary(environment: Environment, progress: Progress, *, as_json: bool) -> None:
    total = environment.stats.total
    summary = {
        "requests": total.num_requests,
        "failures": total.num_failures,
        "not_sent": progress.not_sent,
        "unanswered": progress.in_flight,
        "percentiles_ms": {f"p{q}": total.get_response_time_percentile(q / 100) for q in (50, 90, 95, 99)},
        "max_ms": total.max_response_time,
        "errors": {str(error.error): error.occurrences for error in environment.stats.errors.values()},
    }
    if as_json:
        print(json.dumps(summary))
        return
    latency = "  ".join(f"{name} {value:.0f} ms" for name, value in summary["percentiles_ms"].items())
    good = total.num_requests - total.num_failures
    print(f"\n{good} answered well, {total.num_failures} failed, {progress.in_flight} without an answer yet")
    print(f"latency  {latency}  max {total.max_response_time:.0f} ms")
    for error, count in summary["errors"].items():
        print(f"  {count} x {error}")


if __name__ == "__main__":
    raise SystemExit(main())
