"""What a person does with `kubectl grid` on the running grid, from a prompt to a node that is taken out and let in again."""

import os
import subprocess

from . import environment as env
from . import kube, story
from .shell import wait_for

DONE, FAILED, NOT_YET = 0, 1, 2


def grid(*words, expect, stdin="", namespace=story.TEAM):
    """Runs a command as a person does, with an exit code that is expected; returns what it printed."""
    command = [str(env.binary("kubectl-grid")), "-n", namespace, *words]
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=600, check=False, env=os.environ | {"KUBECONFIG": kube.KUBECONFIG})
    if ran.returncode != expect:
        raise ValueError(f"{' '.join(words)}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
    return ran.stdout


def test_a_person_asks_and_looks_at_the_answer():
    answer = grid("submit", "--model", story.MODEL, "--prompts", "-", "--name", "asked", "--max-tokens", "8", expect=DONE, stdin="What is the capital of France?\n")
    assert "line-1" in answer, answer
    assert "is complete" in grid("why", "asked", expect=DONE)
    # Told by an Event, which is written after the status.
    wait_for("the logs to tell it", lambda: "Completed" in grid("logs", "asked", expect=DONE))
    assert "asked" in grid("top", "--once", "--all", expect=DONE)
    assert "image" in grid("version", "-o", "json", expect=DONE), "the operator's image is told"


def test_a_person_is_told_why_a_node_has_no_pod_that_runs():
    spec = {"networkRef": {"name": env.NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [story.MODEL], "nodeSelector": {"no": "such-node"}}
    kube.apply(kube.manifest("GridNode", "nowhere", spec))
    try:
        wait_for("the scheduler's words", lambda: "didn't match Pod's node affinity/selector" in grid("why", "gn/nowhere", expect=NOT_YET), 180)
        wait_for("the reason", lambda: grid("why", "gn/nowhere", "-o", "name", expect=NOT_YET).startswith("Unschedulable"))
    finally:
        kube.kubectl("delete", "gn", "nowhere", "--timeout=180s")


def test_a_person_drains_a_node_under_a_running_job_and_loses_nothing():
    story.create_job("drained-under", "\n".join(f"Tell me a short story about the number {n}." for n in range(1, 25)))
    wait_for("answers", lambda: kube.get("inferencejob", "drained-under", story.TEAM)["status"]["requests"]["completed"] > 0, 180)
    try:
        assert "drained" in grid("drain", "node-b", "--timeout", "300", expect=DONE)
        assert "Cordoned" in grid("why", "gn/node-b", expect=NOT_YET)
    finally:
        grid("uncordon", "node-b", expect=DONE)
    counts = story.watch_job("drained-under")["status"]["requests"]
    assert (counts["completed"], counts["failed"]) == (24, 0), counts
    grid("cancel", "drained-under", expect=DONE)


ALL = [value for name, value in list(globals().items()) if name.startswith("test_")]
