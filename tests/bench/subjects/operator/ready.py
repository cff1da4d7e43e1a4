"""From a worker's pod being Ready to its GridNode being Ready: with real workers of the real gateway, as processes."""

import json
import subprocess
import threading
import time

from ..table import note, row, table
from . import worker
from .stage import SYSTEM, say

NODES = 10


def measure(stage):
    table("worker's pod Ready → GridNode Ready (goal p99 ≤ 2 s beyond its own measuring)")
    whole, beyond = [], []
    for number in range(NODES):
        name = f"joins-{number}"
        say(f"node {number + 1} of {NODES} joins")
        found = one(stage, name)
        whole.append(found[0])
        beyond.append(found[1])
        stage.kubectl("delete", "gridnode", name, "--timeout=60s")
    row("pod Ready → GridNode Ready, in whole", whole, "s")
    row("of which after pod Ready, model measured and compute proven", beyond, "s")
    note(
        "Each worker is a real grid-worker that joins the gateway as a process; its pod is an object whose status becomes Ready when the worker's "
        f"own /readyz does. With n = {NODES} the largest value stands for p99."
    )


def one(stage, name):
    """(seconds in whole, seconds beyond what the node itself takes)."""
    watch = Watch(stage, name)
    try:
        process, peer = worker.managed(stage, name)
        stage.apply(worker.pod(f"worker-{name}-0", SYSTEM, {worker.LABEL: name}))
        worker.set_status(stage, f"worker-{name}-0", SYSTEM, worker.running())
        pod_ready = time.monotonic()
        proven = None
        while (ready := watch.ready_at) is None:
            if time.monotonic() - pod_ready > 120:
                raise RuntimeError(f"GridNode {name} is not Ready after 120 s; see {stage.log}")
            if proven is None and worker.capability(stage, peer):
                proven = time.monotonic()
            time.sleep(0.01)
        process.stop()
        stage.kubectl("-n", SYSTEM, "delete", "pod", f"worker-{name}-0", "--grace-period=0", "--force")
        return ready - pod_ready, max(0.0, ready - max(pod_ready, proven or pod_ready))
    finally:
        watch.stop()


class Watch:
    """When a GridNode became Ready, seen by a watch: a poll would add its own interval."""

    def __init__(self, stage, name):
        self.ready_at = None
        self.child = subprocess.Popen(
            ["kubectl", "--kubeconfig", stage.kubeconfig, "get", "gridnodes", f"--field-selector=metadata.name={name}", "--watch", "-o", "json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        decoder, text = json.JSONDecoder(), ""
        for line in self.child.stdout:
            text += line
            if line.rstrip() != "}":
                continue
            try:
                found, _ = decoder.raw_decode(text)
            except ValueError:
                continue
            text = ""
            conditions = found.get("status", {}).get("conditions", [])
            if self.ready_at is None and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
                self.ready_at = time.monotonic()

    def stop(self):
        self.child.terminate()
        self.child.wait(10)
