#!/usr/bin/env python3
"""How long settling an epoch takes, and what its report costs: the tables of docs/benchmarks.md. Nothing here is asserted.

    tests/bench/reward.py             as `make` builds it
    tests/bench/reward.py --release   optimised
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEST = ["--test", "it", "reward_speed", "--", "--ignored", "--nocapture"]


def main():
    unknown = set(sys.argv[1:]) - {"--release"}
    if unknown:
        sys.exit(f"unknown: {' '.join(sorted(unknown))}; there is only --release")
    sys.exit(subprocess.run(["cargo", "test", "--quiet", "--locked", *sys.argv[1:], *TEST], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
