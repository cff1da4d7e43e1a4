"""A cluster that the user has: what is checked before anything is made there, how its gateway is reached, and how all of it is removed."""

import json
import os
import socket
import subprocess

from . import kube
from .place import image_values
from .report import StepFailed, say
from .shell import STATE, run, succeeds, wait_for

RELEASE = "xdc-grid"
OUR_CRDS = ("crd", "-l", "app.kubernetes.io/part-of=xdc-grid")
PATIENCE = "--timeout=120s"


def enter(place, objects, namespaces):
    """Keeps a copy of the kubeconfig, refuses to touch what is there, and records what is not: that, and only that, `leave` removes.

    `objects`: (kind, name, namespace or None) of all that the demo will make."""
    if place.made:
        return place
    copy = run("kubectl", "config", "view", "--minify", "--flatten", "--raw", env=os.environ | {"KUBECONFIG": place.given})
    descriptor = os.open(place.kubeconfig, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(copy)
    try:
        kube.kubectl("get", "--raw", "/readyz", "--request-timeout=20s")
    except subprocess.CalledProcessError as error:
        raise StepFailed(f"the cluster of KUBECONFIG={place.given} does not answer: {error.stderr.strip()}") from error
    refuse_strangers(place, objects)
    made = ["release"] + ([] if crds() else ["crds"])
    made += [f"namespace/{name}" for name in namespaces if not kube.exists("namespace", name)]
    for thing in made:
        place = place.with_made(thing)
    return place


def crds():
    return kube.kubectl("get", *OUR_CRDS, "-o", "name").split()


def refuse_strangers(place, objects):
    if succeeds("helm", "--kubeconfig", place.kubeconfig, "status", RELEASE, "-n", kube.SYSTEM):
        raise StepFailed(f"the cluster has a Helm release {RELEASE} in namespace {kube.SYSTEM}; the demo did not make it and will not change it")
    found = [f"{kind} {name}" for kind, name, namespace in objects if crds() and kube.exists(kind, name, namespace)]
    if found:
        raise StepFailed(f"the cluster has {', '.join(found)}; the demo did not make them and will not change them")


def chart_values(place):
    """The file with the values of the release. Node ports are the cluster's choice, as ours may be taken there."""
    node_port = {"service": {"type": "NodePort"}}
    values = {
        "image": image_values(place.image),
        "crds": {"enabled": "crds" in place.made},
        "gateway": {"p2p": node_port, "api": node_port, "storage": {"size": "4Gi", "persistent": has_default_storage_class()}},
        # Chain and model server are programs of this machine with ports of their own.
        "networkPolicy": {"models": {"ports": [80, 443, 8546]}, "apiServer": {"ports": api_server_ports()}},
    }
    path = STATE / "values.json"
    path.write_text(json.dumps(values, indent=2) + "\n")
    return path


def has_default_storage_class():
    annotation = "storageclass.kubernetes.io/is-default-class"
    return any(found["metadata"].get("annotations", {}).get(annotation) == "true" for found in kube.get_all("storageclasses"))


def api_server_ports():
    """Where pods find the API server: the Service's port, and the one behind it."""
    slices = kube.get_all("endpointslices", "default", "kubernetes.io/service-name=kubernetes")
    return sorted({443, 6443} | {port["port"] for found in slices for port in found.get("ports", [])})


def gateway():
    """(node address, libp2p port, API port) by which this machine reaches the gateway."""
    p2p, api = (kube.get("service", f"{RELEASE}-gateway-{name}", kube.SYSTEM)["spec"]["ports"][0]["nodePort"] for name in ("p2p", "api"))
    addresses = node_addresses(kube.get_all("nodes"))
    try:
        address = wait_for("a node to answer", lambda: next((address for address in addresses if answers(address, api)), None), 30)
    except StepFailed as failure:
        raise StepFailed(f"no node of the cluster ({', '.join(addresses)}) answers this machine on node port {api}; the demo runs a worker on this "
                         "machine, outside the cluster, which must reach one") from failure
    return address, p2p, api


def node_addresses(nodes):
    """IPv4 addresses of Ready nodes, internal ones first."""
    ready = [node["status"]["addresses"] for node in nodes if kube.condition(node, "Ready").get("status") == "True"]
    wanted = ("InternalIP", "ExternalIP")
    found = [(wanted.index(entry["type"]), entry["address"]) for addresses in ready for entry in addresses if entry["type"] in wanted]
    return [address for _, address in sorted(found, key=lambda pair: pair[0]) if ":" not in address]


def answers(address, port):
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


def remove(kind, name, where):
    """Deletes an object. One whose finalizers do not go in time loses them: what they wait for, this machine's chain, ends next."""
    try:
        kube.kubectl("delete", kind, name, *where, "--ignore-not-found", PATIENCE)
    except subprocess.CalledProcessError as error:
        say(f"    {kind} {name} did not go by itself: {error.stderr.strip()}")
        kube.kubectl("patch", kind, name, *where, "--type=merge", "-p", '{"metadata": {"finalizers": null}}', check=False)
        kube.kubectl("delete", kind, name, *where, "--ignore-not-found", PATIENCE)


def leave(place, objects, network):
    """Removes what was made. Operator, gateway and chain still run, so that jobs and nodes can end as they should."""
    if not succeeds("kubectl", "--kubeconfig", place.kubeconfig, "get", "--raw", "/readyz", "--request-timeout=20s"):
        raise StepFailed(f"the cluster of {place.given} does not answer, and nothing was removed; run `make down` again when it does")
    if crds():
        for kind, name, namespace in objects:
            remove(kind, name, ["-n", namespace] if namespace else [])
        reports = [found["metadata"]["name"] for found in kube.get_all("contributionreports")]
        ours = [name for name in reports if name.rsplit("-", 1)[0] == network]
        if ours:
            kube.kubectl("delete", "contributionreport", *ours, "--ignore-not-found", PATIENCE)
    run("helm", "--kubeconfig", place.kubeconfig, "uninstall", RELEASE, "-n", kube.SYSTEM, "--ignore-not-found", "--wait", "--timeout", "120s")
    # In a namespace that was there before: what Helm does not remove.
    if f"namespace/{kube.SYSTEM}" not in place.made:
        kube.kubectl("-n", kube.SYSTEM, "delete", "secret/reporter", f"pvc/data-{RELEASE}-gateway-0", "--ignore-not-found", PATIENCE)
    for thing in place.made:
        if thing.startswith("namespace/"):
            kube.kubectl("delete", *thing.split("/"), "--ignore-not-found", PATIENCE)
    if "crds" in place.made:
        kube.kubectl("delete", *OUR_CRDS, "--ignore-not-found", PATIENCE)
