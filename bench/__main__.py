"""``python -m bench [NAME …]``: run benchmarks, each with a peer or a limit beside it in the same run.

``overhead``, ``failure`` and ``scale-out`` measure the running installation (``make up`` first). What needs none has
commands of its own: ``python -m bench.decisions`` and ``make bench-policies``.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from common.errors import AutoscalerError

NAMES = ("overhead", "failure", "scale-out")


def main() -> int:
    """Run the named benchmarks, print their tables, and write all figures to ``--json``."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}; all by default")
    parser.add_argument("--config", type=Path, default=Path(os.environ.get("AUTOSCALER_CONFIG", "autoscaler.toml")))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)}; known: {', '.join(NAMES)}")
    results = {}
    try:
        for name in args.names or NAMES:
            print(f"\n## {name}\n", flush=True)
            results[name] = _run(name, args.config)
    except AutoscalerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        args.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


def _run(name: str, config: Path) -> object:
    from bench import failure, overhead, scale_out
    from bench.installation import Installation

    benchmark = {"overhead": overhead, "failure": failure, "scale-out": scale_out}[name]
    installation = Installation(config)
    if not any(service["alive"] for service in installation.status()["services"]):
        raise AutoscalerError("nothing runs that could be measured; run: make up")
    result = benchmark.run(installation)
    print(benchmark.show(result))
    return result


if __name__ == "__main__":
    raise SystemExit(main())
