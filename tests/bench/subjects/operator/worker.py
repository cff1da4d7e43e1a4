"""Real workers as processes of this machine: of a GridNode, and of a brief Local job."""

import base64
import json
import os
import re
import time

from grid.environment import CHAIN_ID, binary
from grid.shell import run, wait_for

from .process import answers, free_port, get
from .stage import MODEL, NETWORK, STATE, SYSTEM, TEAM, grid

LABEL = "xdcgrid.io/node"


def team(stage):
    """A node that answers and one that audits it, which a new node needs; returns both workers once the first one takes work."""
    answering, peer = managed(stage, "answers")
    auditing, _ = managed(stage, "audits", roles=("Verify",))
    wait_for("the answering node's proof", lambda: capability(stage, peer), 120)
    return answering, auditing


def start(stage, name, key):
    """Starts a worker with a key; returns it and the address of its health endpoint."""
    network = stage.get("gridnetwork", NETWORK)
    address = next(found for found in network["status"]["gateways"][0]["addresses"] if "127.0.0.1" in found)
    http = f"127.0.0.1:{free_port()}"
    worker = stage.start(
        f"worker-{name}", binary("grid-worker"), "run", "--key-file", key, "--data-dir", STATE / "workers" / name / "data", "--gateway", address,
        "--chain-id", CHAIN_ID, "--contract", stage.contract, "--http-address", http, "--threads", 1,
    )
    return worker, http


def node_report(stage, peer):
    """What the gateway knows of a node; None when it knows nothing."""
    try:
        return json.loads(get(f"{stage.gateway_url}/internal/v1/nodes/{peer}", headers={"authorization": f"Bearer {stage.token.read_text()}"}))
    except OSError:
        return None


def capability(stage, peer):
    """Whether the gateway has proven a node's compute, and its model is loaded and measured."""
    report = node_report(stage, peer)
    return bool(report) and report["capability"]["verified"] and any(model["state"] == "Ready" for model in report["models"])


def managed(stage, name, roles=("Compute",)):
    """A GridNode of the cluster with its worker as a process: waits until the worker itself is ready; returns worker and peer id."""
    stage.apply(grid("GridNode", name, {
        "networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL], "roles": list(roles),
        "resources": {"cpu": "1", "memory": "1Gi"},
    }))
    secret = wait_for("the node's key", lambda: stage.get("secret", f"worker-{name}-key", SYSTEM), 60, every=0.1)
    folder = STATE / "workers" / name
    folder.mkdir(parents=True)
    key = folder / "node.key"
    key.touch(mode=0o600)
    key.write_bytes(base64.b64decode(secret["data"]["node.key"]))
    peer = re.search(r"16Uiu2HA\w+", run(binary("grid-worker"), "id", "--key-file", key))[0]
    worker, http = start(stage, name, key)
    wait_for(f"the worker of {name}", lambda: answers(f"http://{http}/readyz"), 120, every=0.05)
    return worker, peer


def pod(name, namespace, labels, annotations=None):
    """A pod that somebody's kubelet runs; only its status is played."""
    container = {"name": "worker", "image": "localhost/xdc-grid:bench", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "nowhere", "containers": [container]}}


def running(status="True"):
    """The status of a pod that runs."""
    conditions = [{"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"} for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    container = {"name": "worker", "image": "localhost/xdc-grid:bench", "imageID": "", "ready": status == "True", "restartCount": 0, "state": state}
    return {"status": {"phase": "Running", "conditions": conditions, "containerStatuses": [container], "startTime": "2026-01-01T00:00:00Z"}}


def set_status(stage, name, namespace, status):
    stage.kubectl("-n", namespace, "patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def play_brief_job(stage, name):
    """Runs the pod of a brief Local job: the real worker with the pod's own arguments, environment and token."""
    uid = stage.get("inferencejob", name, TEAM)["metadata"]["uid"]
    found = wait_for("the child's pod", lambda: pods_of(stage, uid), 60, every=0.1)[0]
    pod_name = found["metadata"]["name"]
    spec = found["spec"]
    folder = STATE / "shards" / pod_name
    folder.mkdir(parents=True)
    (folder / "token").write_text(stage.kubectl("-n", TEAM, "create", "token", spec["serviceAccountName"], "--duration", "1h").strip())
    (folder / "ca.crt").write_text((STATE / "pki" / "ca.crt").read_text())
    set_status(stage, pod_name, TEAM, running())
    ours = ("batch", "--credentials-dir", "--data-dir", "--report-file")
    args = [arg for arg in spec["containers"][0]["args"] if not arg.startswith(ours)]
    told = {variable["name"]: variable["value"] for variable in spec["containers"][0]["env"] if "value" in variable}
    owner = {"GRID_OWNER_UID": found["metadata"]["labels"]["batch.kubernetes.io/controller-uid"]}
    run(
        binary("grid-worker"), "batch", *args, "--index=0", f"--api-server={stage.server}", f"--credentials-dir={folder}",
        f"--data-dir={STATE / 'shards' / 'data'}", f"--report-file={folder / 'report'}", "--node-name=nowhere", "--threads=1", timeout=120,
        env=os.environ | told | owner,
    )
    set_status(stage, pod_name, TEAM, ended((folder / "report").read_text()))


def pods_of(stage, uid):
    return json.loads(stage.kubectl("-n", TEAM, "get", "pods", "-l", f"xdcgrid.io/job-uid={uid}", "-o", "json"))["items"]


def ended(message):
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": message, "startedAt": now, "finishedAt": now}}
    container = {"name": "worker", "image": "localhost/xdc-grid:bench", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"status": {"phase": "Succeeded", "conditions": [], "containerStatuses": [container]}}
