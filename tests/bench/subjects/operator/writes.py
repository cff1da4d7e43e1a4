"""What the operator writes, counted from the API server's audit log."""

import collections

from grid.shell import wait_for

from ..table import note, row, table
from . import worker
from ..audit import of_job
from .stage import TEAM, job, say

ROUNDS = 5


def measure(stage):
    table("API writes of the operator for one job of one request (goal ≤ 4 over its life)")
    say("two workers join")
    workers = worker.team(stage)
    grid = [life(stage, f"life-grid-{number}", "Grid") for number in range(ROUNDS)]
    local = [life(stage, f"life-local-{number}", "Local") for number in range(ROUNDS)]
    for name, lives in (("Grid", grid), ("Local", local)):
        row(f"{name}: created → Complete", [sum(lived.until_complete.values()) for lived in lives], "writes")
        row(f"{name}: … and deleted", [sum((lived.until_complete + lived.until_gone).values()) for lived in lives], "writes")
        row(f"{name}: Events beside them", [sum(lived.events.values()) for lived in lives], "writes")
    row("Local: by the job's own pod", [lived.by_pods for lived in local], "writes")
    row("reconcile without news, of a job that is done", [idle_look(stage, "life-grid-0") for _ in range(ROUNDS)], "writes")
    waiting = "idle-job"
    for process in workers:
        process.stop()
    stage.apply(job(waiting))
    stage.wait_condition("inferencejob", waiting, "Admitted", TEAM)
    stage.quiet(name=waiting)
    row("reconcile without news, of a job that waits", [idle_look(stage, waiting) for _ in range(ROUNDS)], "writes")
    note(f"Grid: {listed(grid[-1])}\n\nLocal: {listed(local[-1])}")
    stage.kubectl("delete", "gridnode", "answers", "audits", "--wait=false")


class Life:
    def __init__(self, until_complete, until_gone, events, by_pods):
        self.until_complete, self.until_gone, self.events, self.by_pods = until_complete, until_gone, events, by_pods


def life(stage, name, target):
    """One job from its creation to its end. The last of them stays, for `idle_look`."""
    say(f"the life of {name}")
    mark = stage.audit.mark()
    stage.apply(job(name, target))
    if target == "Local":
        worker.play_brief_job(stage, name)
    stage.wait_condition("inferencejob", name, "Complete", TEAM)
    stage.quiet(seconds=3, name=name)
    until_complete, events = of_job(stage.audit.writes(mark), TEAM, name)
    by_pods = sum(stage.audit_of_pods.writes(mark).values())
    if name.endswith("-grid-0"):
        return Life(until_complete, collections.Counter(), events, by_pods)
    mark = stage.audit.mark()
    stage.kubectl("-n", TEAM, "delete", "inferencejob", name, "--timeout=60s")
    stage.quiet(seconds=1.5, name=name)
    until_gone, later = of_job(stage.audit.writes(mark), TEAM, name)
    return Life(until_complete, until_gone, events + later, by_pods)


def idle_look(stage, name):
    """Writes of a look that somebody caused and that has nothing to do: a label is no news for a job."""
    looked = stage.reconciles().get("InferenceJob", 0)
    mark = stage.audit.mark()
    label = f"bench/look={mark[1]}"
    stage.kubectl("-n", TEAM, "label", "--overwrite", "inferencejob", name, label)
    wait_for("a look", lambda: stage.reconciles().get("InferenceJob", 0) > looked, 30, every=0.1)
    stage.quiet(seconds=1, name=name)
    return stage.written(mark, name)


def listed(lived):
    """The deeds of a life, as a sentence."""
    def of(counts):
        return ", ".join(f"{count} × {deed}" for deed, count in sorted(counts.items())) or "nothing"

    return f"until Complete {of(lived.until_complete)}; then {of(lived.until_gone)}; Events: {of(lived.events)}."
