#!/usr/bin/env python3
"""`KUBECONFIG=… make demo` and `make down` on a cluster that neither made. Ends with `N passed, N failed`.

The cluster is the local one in a folder that the demo knows nothing of."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from grid import environment, place, story
from grid.report import describe, say
from grid.shell import ROOT, STATE, run

DEMO = ROOT / "tests" / "e2e" / "demo.py"


class TheirCluster:
    """Somebody's cluster, with an image in its nodes."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.env = os.environ | {"KUBECONFIG": str(self.folder / "kubeconfig"), "IMAGE": place.LOCAL_IMAGE}
        self.env.pop("HOST_ADDRESS", None)

    def cluster(self, verb, *words):
        return run(ROOT / "tests" / "cluster" / "cluster.sh", verb, "--state", self.folder, *words)

    def kubectl(self, *words):
        return run("kubectl", *words, env=self.env)

    def demo(self, verb, **environ):
        """Its words as they come, and whether it succeeded."""
        env = {name: value for name, value in (self.env | environ).items() if value is not None}
        process = subprocess.Popen([sys.executable, DEMO, verb], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []
        for line in process.stdout:
            print("  |", line, end="", flush=True)
            lines.append(line)
        return "".join(lines), process.wait() == 0

    def things(self):
        """Everything that the demo could leave behind."""
        kinds = ["namespaces", "crds", "clusterroles", "clusterrolebindings"]
        return set(self.kubectl("get", ",".join(kinds), "-o", "name").split())


def test_without_an_image_nothing_is_done(theirs):
    said, succeeded = theirs.demo("demo", IMAGE=None)
    assert not succeeded and "IMAGE is not set" in said, said
    assert not (STATE / place.RECORD).exists()


def test_the_demo_runs_on_a_cluster_that_it_did_not_make(theirs):
    said, succeeded = theirs.demo("demo")
    assert succeeded, "the demo failed; its output is above"
    assert "Kubernetes 1.37" not in said, "it brought up a cluster of its own"
    job = theirs.kubectl("get", "ij", story.JOB, "-n", story.TEAM, "-o", "jsonpath={.status.progress}")
    assert job == "24/24", job


def test_a_release_that_the_demo_made_is_found_again_without_kubeconfig(theirs):
    said, succeeded = theirs.demo("up", KUBECONFIG=None, IMAGE=None)
    assert succeeded, said


def test_down_removes_what_was_made_and_leaves_the_cluster(theirs):
    said, succeeded = theirs.demo("down", KUBECONFIG=None, IMAGE=None)
    assert succeeded, said
    left = theirs.things() - theirs.before
    assert not left, f"left behind: {sorted(left)}"
    assert not STATE.exists()
    theirs.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s")


def attempt(test, theirs):
    begun = time.monotonic()
    try:
        test(theirs)
    except Exception as error:  # a test may fail in any way; the others still run
        say(f"FAILED {test.__name__} after {time.monotonic() - begun:.0f} s: {describe(error)}")
        return False
    say(f"ok {test.__name__} ({time.monotonic() - begun:.0f} s)")
    return True


def main():
    if STATE.exists():
        sys.exit(f"{STATE} exists: a grid is up; run `make down` first")
    folder = tempfile.mkdtemp(prefix="their-cluster-")
    theirs = TheirCluster(folder)
    outcomes = []
    try:
        theirs.cluster("up", "--nodes", 3)
        theirs.cluster("load", environment.pack_image())
        shutil.rmtree(STATE)
        theirs.before = theirs.things()
        outcomes = [attempt(test, theirs) for name, test in list(globals().items()) if name.startswith("test_")]
    except Exception as error:
        say(f"FAILED to make the cluster: {describe(error)}")
        outcomes.append(False)
    finally:
        theirs.cluster("down")
        shutil.rmtree(folder, ignore_errors=True)
    say(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed")
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
