"""What it takes to settle an epoch: divide the pool, build the tree, pack the report."""

import subprocess

from grid.shell import ROOT

# Our code optimised, as `make bench` builds it.
MEASURE = ("cargo", "run", "--quiet", "--locked", "--config", "profile.dev.package.xdc-grid.opt-level=3", "--example", "settle-epoch")


def epoch():
    """Settling 1,000 to 1,000,000 leaves: tree, whole epoch, a proof, memory, and gas of a report's bytes."""
    print("\n### settling an epoch, on one core\n", flush=True)
    subprocess.run(MEASURE, cwd=ROOT, check=True)
