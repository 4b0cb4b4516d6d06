"""``python -m tests.fuzz``: feed every door, or one, with damaged input; see ``make fuzz``."""

import argparse
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.run import MOST_GROWTH_BYTES, run


def main() -> int:
    """Feed the doors; return 1 where one of them raised, or grew."""
    from tests.fuzz.doors import DOORS

    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--door", default="", choices=["", *DOORS], help="one of them; all by default")
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each door")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    is_good = True
    for name in [options.door] if options.door else DOORS:
        with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
            found = run(name, options.count, options.seed, Path(scratch))
        print(found.text(), flush=True)
        is_good &= not found.fault and found.grown_bytes < MOST_GROWTH_BYTES
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
