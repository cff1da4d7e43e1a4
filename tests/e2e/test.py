#!/usr/bin/env python3
"""The story and the faults as an end-to-end test. Ends with `N passed, N failed`.

    tests/e2e/test.py            everything, on a fresh cluster; removes it afterwards
    tests/e2e/test.py NAME…      only the faults whose name contains one of these, on the cluster that is up
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from grid import autoscaling, devices, environment, faults, metrics, models, story, upgrade
from grid.report import describe, say, show_tail


def attempt(name, function):
    begun = time.monotonic()
    try:
        function()
    except Exception as error:  # a test may fail in any way; the others still run
        say(f"FAILED {name} after {time.monotonic() - begun:.0f} s: {describe(error)}")
        for command in environment.component_logs() + story.node_logs():
            show_tail(command)
        return False
    say(f"ok {name} ({time.monotonic() - begun:.0f} s)")
    return True


def main():
    wanted = sys.argv[1:]
    subjects = (faults, models, upgrade, devices, metrics, autoscaling)
    every = [test for subject in subjects for test in subject.ALL]
    chosen = [test for test in every if not wanted or any(part in test.__name__ for part in wanted)]
    outcomes = []
    if not environment.PLACE.local:
        sys.exit("the grid is on a cluster of yours; these tests break things and run on the local cluster only: run `make down` first")
    if not wanted:
        environment.down()
        outcomes.append(attempt("the grid comes up", environment.up))
        outcomes.append(outcomes[0] and attempt("the story: model, nodes, job, cheat, epoch, claim", story.tell))
    if all(outcomes):
        outcomes += [attempt(test.__name__, test) for test in chosen]
    else:
        outcomes += [False] * len(chosen)
        say(f"{len(chosen)} tests were not run, as they need the story's grid")
    if not wanted:
        environment.down()
    say(f"{outcomes.count(True)} passed, {len(outcomes) - outcomes.count(True)} failed")
    sys.exit(0 if all(outcomes) else 1)


main()
