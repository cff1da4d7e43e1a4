"""The operator beside a large cluster: memory, start-up, and what it costs to look at everything again."""

import time

from grid.shell import wait_for

from ..table import note, row, table
from . import worker
from .handover import JOBS
from .stage import MODEL, NETWORK, SYSTEM, TEAM, grid, job, path, say, scaled

RESTARTS = 5
# A kilobyte of prompts: what the operator must not keep ten thousand times.
PROMPTS = "\n".join(f"Tell me in one sentence what the number {number} is known for." for number in range(17))


def measure(stage):
    table("10,000 InferenceJobs, 1,000 GridNodes, 20,000 pods (goal: RSS ≤ 64 MiB, relist < 10 s, start-up < 2 s, no writes)")
    counts = populate(stage)
    say("the operator takes it all in")
    begun = time.monotonic()
    stage.start_operator()
    wait_for("every node to be looked at", lambda: stage.reconciles().get("GridNode", 0) >= counts["nodes"], 300, every=0.5)
    stage.quiet(seconds=5, timeout=180)
    settled = time.monotonic() - begun
    memory = [stage.operator.memory_mib() for _ in readings()]
    first, whole, jobs, written, restarted = [], [], [], [], []
    for number in range(RESTARTS):
        say(f"restart {number + 1} of {RESTARTS}")
        found = restart(stage, counts)
        for values, value in zip((first, jobs, whole, written, restarted), found):
            values.append(value)
    row("resident set, after everything was made", memory, "MiB")
    row("resident set, after a restart", restarted, "MiB")
    row("… of it anonymous (heap and stacks; the rest is the program's file)", [stage.operator.memory_mib("RssAnon")], "MiB")
    row("… largest ever (VmHWM), after the restarts", [stage.operator.memory_mib("VmHWM")], "MiB")
    row("start-up to the first reconcile", first, "s")
    row("relist: start-up to every job looked at", jobs, "s")
    row("relist: start-up to every job and node looked at", whole, "s")
    row("API writes of a relist in which nothing changed", written, "writes")
    note(
        f"{counts['ended']} jobs that have ended and {counts['live']} that wait, each with its input of about a kilobyte; {counts['nodes']} nodes whose worker's "
        f"pod is ready and whose worker has not connected; {counts['pods']} pods. The nodes were made ready for the first time in {settled:.0f} s."
    )


def readings():
    for number in range(10):
        yield number
        time.sleep(0.5)


def populate(stage):
    """Fills the API server while the operator is away; what is there already counts."""
    stage.stop_operator()
    live = len(stage.kubectl("-n", TEAM, "get", "inferencejobs", "-o", "name").splitlines())
    ended, nodes, pods = max(1, scaled(10_000) - live), scaled(1_000, 10), scaled(20_000, 100)
    say(f"{ended} jobs that have ended")
    template = job("ended-{{i}}", prompts=PROMPTS)
    stage.load(JOBS, template, ended, status=complete(), timeout=300)
    say(f"{nodes} nodes and their pods")
    spec = {"networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL], "roles": ["Compute"]}
    stage.load(path("xdcgrid.io/v1alpha1/gridnodes", None), grid("GridNode", "many-{{i}}", spec), nodes)
    of_node = worker.pod("worker-many-{{i}}-0", SYSTEM, {worker.LABEL: "many-{{i}}"})
    stage.load(path("v1/pods", SYSTEM), of_node, nodes, status=worker.running())
    say(f"{pods - nodes} pods of Local jobs")
    # As the pods of one job that has ended: what counts is that the operator's watch has to take them in.
    labels = {"xdcgrid.io/job-uid": "00000000-0000-0000-0000-000000000000", "app.kubernetes.io/component": "job-worker"}
    of_job = worker.pod("shard-{{i}}", TEAM, labels, {"xdcgrid.io/job-name": "ended-000000"})
    stage.load(path("v1/pods"), of_job, pods - nodes, status=worker.running(), timeout=300)
    return {"ended": ended, "live": live, "nodes": nodes, "pods": pods}


def complete():
    """The status of a job that ended and is paid for."""
    def condition(kind, status, reason, message):
        return {"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}

    conditions = [
        condition("Accepted", "True", "InputRead", "17 requests"), condition("Admitted", "True", "Submitted", "the grid has the job and its input"),
        condition("ModelReady", "True", "ModelServed", "workers answer with it"), condition("Running", "False", "AllRequestsDone", "every request is done"),
        condition("OutputPublished", "True", "Published", "17 results and 0 errors in ConfigMap ended-results"),
        condition("Verified", "True", "AuditsPassed", "3 audits agreed"), condition("Complete", "True", "Completed", "17 requests completed, 0 failed"),
        condition("Settled", "True", "EpochActive", "epoch 7 is active on chain"),
    ]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"status": {
        "observedGeneration": 1, "phase": "Complete", "reason": "Completed", "progress": "17/17", "startTime": now, "completionTime": now, "duration": "9s",
        "modelDigest": "11" * 32, "inputSha256": "22" * 32, "requests": {"total": 17, "completed": 17, "failed": 0}, "tokens": {"prompt": 300, "output": 500},
        "throughput": "55.5", "nodes": 2, "assignments": [{"nodeName": "a", "requests": 9}, {"nodeName": "b", "requests": 8}], "conditions": conditions,
    }}


def restart(stage, counts):
    """(s to the first reconcile, s to all jobs, s to all jobs and nodes, writes, MiB)."""
    stage.stop_operator()
    mark = stage.audit.mark()
    begun = time.monotonic()
    stage.start_operator()
    first = jobs = whole = None
    wanted = counts["ended"] + counts["live"]
    while whole is None:
        seen, now = stage.reconciles(), time.monotonic() - begun
        if first is None and sum(seen.values()) > 0:
            first = now
        if jobs is None and seen.get("InferenceJob", 0) >= wanted:
            jobs = now
        if jobs is not None and seen.get("GridNode", 0) >= counts["nodes"]:
            whole = now
        if now > 180:
            raise RuntimeError(f"not everything was looked at within 180 s: {seen} of {counts}; see {stage.log}")
        time.sleep(0.02 if first is None else 0.1)
    stage.quiet(seconds=2, timeout=30)
    return first, jobs, whole, sum(stage.audit.writes(mark).values()), stage.operator.memory_mib()
