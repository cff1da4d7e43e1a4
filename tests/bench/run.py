#!/usr/bin/env python3
"""`make bench`: measured figures of this machine, as the tables of docs/benchmarks.md. Nothing here is asserted.

    tests/bench/run.py            all subjects
    tests/bench/run.py NAME…      only these
    tests/bench/run.py --help     what there is

Programs are taken from CARGO_TARGET_DIR (debug/): build them first (`make bench` does). BENCH_SCALE=0.1 makes everything that
counts objects a tenth as large, and BENCH_PAIRS=1 measures the engine once instead of five times, to try the benchmarks themselves.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from subjects import demo, engine, epoch, gas, operator
from subjects.table import processor

# In the order in which they run. Those of the operator share one API server of their own; the last four need `up` before them.
SUBJECTS = {
    "engine": engine.engine,
    "larger": engine.larger,
    "replay": engine.replay,
    "depth": engine.depth,
    "together": engine.together,
    "mistral": engine.mistral,
    "serve": engine.serve,
    "overhead": engine.overhead,
    "throttled": engine.throttled,
    "masks": engine.masks,
    "epoch": epoch.epoch,
    "handover": operator.handover,
    "writes": operator.writes,
    "ready": operator.ready,
    "scale": operator.scale,
    "up": demo.up,
    "idle": demo.idle,
    "dispatch": demo.dispatch,
    "gas": gas.gas,
}


def main():
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        print("\n".join(f"  {name:9} {subject.__doc__.splitlines()[0]}" for name, subject in SUBJECTS.items()))
        return
    chosen = sys.argv[1:] or list(SUBJECTS)
    unknown = [name for name in chosen if name not in SUBJECTS]
    if unknown:
        sys.exit(f"no subject {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    # As Ctrl-C: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun = time.monotonic()
    print(f"on {processor()}, load {os.getloadavg()[0]:.1f}")
    try:
        for name in chosen:
            if name not in operator.SUBJECTS:
                operator.leave()
            SUBJECTS[name]()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}\n{error.stdout[-2000:]}{error.stderr[-2000:]}")
    finally:
        operator.leave()
    print(f"\n{time.monotonic() - begun:.0f} s in whole, load {os.getloadavg()[0]:.1f}")


main()
