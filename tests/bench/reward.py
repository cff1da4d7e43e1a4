#!/usr/bin/env python3
"""How long settling an epoch takes, and what its report costs: the tables of docs/benchmarks.md. Nothing here is asserted. Our code is
optimised for the run, as `make bench` does.

    tests/bench/reward.py
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIMISED = ["--config", "profile.dev.package.xdc-grid.opt-level=3"]
TEST = ["--test", "it", "reward_speed", "--", "--ignored", "--nocapture"]


def main():
    if sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit(subprocess.run(["cargo", "test", "--quiet", "--locked", *OPTIMISED, *TEST], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
