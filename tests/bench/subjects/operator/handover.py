"""Jobs a second, from created to handed over."""

from ..table import note, row, table
from .stage import MODEL, TEAM, job, path, say, scaled

ROUNDS = 5
JOBS = path("xdcgrid.io/v1alpha1/inferencejobs")
CHILDREN = path("batch/v1/jobs")

HANDED_OVER = {
    "phase": "Queued", "reason": "WaitingForCapacity", "progress": "0/1", "requests": {"total": 1, "completed": 0, "failed": 0},
    "observedGeneration": 1, "inputSha256": "11" * 32, "modelDigest": "22" * 32,
    "conditions": [
        {"type": kind, "status": "True", "reason": "Bench", "message": "the grid has the job and its input", "observedGeneration": 1,
         "lastTransitionTime": "2026-11-27T00:00:00Z"}
        for kind in ("Accepted", "Admitted", "ModelReady", "Reconciling")
    ],
}


def measure(stage):
    table("jobs a second, from created to handed over (goal ≥ 300, never below 150)")
    grid, local, plain, bare, floor, cost = [], [], [], [], [], []
    # Interleaved, so that whatever else the machine does meets all of them.
    for number in range(ROUNDS):
        say(f"hand-over, round {number + 1} of {ROUNDS}")
        bare.append(config_maps(stage, number))
        plain.append(kubernetes_jobs(stage, number))
        floor.append(unmanaged_jobs(stage, number))
        before = stage.cpu()
        grid.append(grid_jobs(stage, number))
        after = stage.cpu()
        cost.append({name: (after[name] - before[name]) * 1000 / grid[-1]["count"] for name in after if name in before})
        local.append(local_jobs(stage, number))
    row("InferenceJob, Grid: accepted by the gateway", [found["per_second"] for found in grid], "jobs/s")
    row("InferenceJob, Local: child Job made", [found["per_second"] for found in local], "jobs/s")
    row("rival: Job controller, Job → pod", [found["per_second"] for found in plain], "jobs/s")
    row("bare: ConfigMaps made by 16 clients", [found["per_second"] for found in bare], "objects/s")
    row("bare: InferenceJobs made and their status written once, by 16 clients", [found["per_second"] for found in floor], "objects/s")
    row("Grid, time of one job under that load, median", [found["p50_ms"] for found in grid], "ms")
    row("Grid, time of one job under that load, p99", [found["p99_ms"] for found in grid], "ms")
    for name in ("operator", "gateway", "kube-apiserver", "etcd"):
        row(f"Grid, processor time of {name} a job", [found[name] for found in cost if name in found], "ms")
    note(f"{grid[0]['count']} Grid jobs, {local[0]['count']} Local jobs, {plain[0]['count']} Jobs and {bare[0]['count']} ConfigMaps a round, one request a job.")


def grid_jobs(stage, number):
    count = scaled(1000, 20)
    return stage.load(JOBS, job(f"grid-{number}-{{{{i}}}}"), count, watch=JOBS, until="Admitted")


def local_jobs(stage, number):
    count = scaled(200, 10)
    made_for = "annotation:xdcgrid.io/job-name"
    template = job(f"local-{number}-{{{{i}}}}", target="Local")
    return stage.load(JOBS, template, count, watch=CHILDREN, selector="xdcgrid.io/job-uid", name_from=made_for)


def kubernetes_jobs(stage, number):
    container = {"name": "c", "image": "localhost/nothing:1"}
    template = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"plain-{number}-{{{{i}}}}", "namespace": TEAM, "labels": {"bench": "plain"}},
        "spec": {"template": {"metadata": {"labels": {"bench": "plain"}}, "spec": {"restartPolicy": "Never", "containers": [container]}}},
    }
    return stage.load(CHILDREN, template, scaled(500, 20), watch=path("v1/pods"), selector="bench=plain", name_from="label:batch.kubernetes.io/job-name")


def unmanaged_jobs(stage, number):
    """What the API server alone can take: each job made, and a status as that of a job handed over, by the load generator itself."""
    template = job(f"floor-{number}-{{{{i}}}}")
    template["spec"]["managedBy"] = "bench.example.com/load"
    return stage.load(JOBS, template, scaled(1000, 20), status={"status": HANDED_OVER})


def config_maps(stage, number):
    metadata = {"name": f"bare-{number}-{{{{i}}}}", "namespace": TEAM}
    template = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"model": MODEL}}
    return stage.load(path("v1/configmaps"), template, scaled(2000, 50))
