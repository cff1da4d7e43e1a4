"""kubectl, against the cluster that the grid is on."""

import json

from . import place
from .shell import run, wait_for

KUBECONFIG = place.recorded().kubeconfig  # `environment.use` sets another
SYSTEM = "xdc-grid"


def kubectl(*command, **options):
    return run("kubectl", "--kubeconfig", KUBECONFIG, *command, **options)


def apply(*objects):
    """Server-side apply of Python dictionaries."""
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    return kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=document)


def get(kind, name, namespace=None):
    where = ["-n", namespace] if namespace else []
    return json.loads(kubectl("get", kind, name, *where, "-o", "json"))


def get_all(kind, namespace=None, selector=None):
    where = (["-n", namespace] if namespace else []) + (["-l", selector] if selector else [])
    return json.loads(kubectl("get", kind, *where, "-o", "json"))["items"]


def exists(kind, name, namespace=None):
    where = ["-n", namespace] if namespace else []
    return bool(kubectl("get", kind, name, *where, "--ignore-not-found", "-o", "name").strip())


def condition(thing, kind):
    """The condition of that type, or an empty dictionary."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {})


def wait_condition(kind, name, wanted, namespace=None, timeout=120, status="True"):
    """Waits for a condition; on a time-out the message tells what the object says about itself."""

    def holds():
        found = get(kind, name, namespace)
        state = condition(found, wanted)
        if state.get("status") == status:
            return found
        raise ValueError({c["type"]: f"{c['status']} {c.get('reason')}: {c.get('message', '')}" for c in found.get("status", {}).get("conditions", [])})

    return wait_for(f"{kind}/{name} to be {wanted}={status}", holds, timeout)


def manifest(kind, name, spec, namespace=None, api="xdcgrid.io/v1alpha1", **top):
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    body = {"apiVersion": api, "kind": kind, "metadata": metadata}
    return body | ({"spec": spec} if spec is not None else {}) | top
