"""GPUs as Kubernetes gives them: GridNodes on fake devices of node-3, by extended resource and by dynamic resource allocation."""

import contextlib

from . import environment as env
from . import kube
from .shell import wait_for

MACHINE = "node-3"
EXTENDED, DRA = "gpu-extended", "gpu-dra"
RESOURCE, DEVICE_CLASS = "example.com/gpu", "gpu.example.com"


@contextlib.contextmanager
def fake_gpus(count):
    env.cluster("devices", "start", MACHINE, "--count", count)
    try:
        yield
    finally:
        env.cluster("devices", "stop", MACHINE)


@contextlib.contextmanager
def gpu_nodes(**accelerators):
    """GridNodes of these names and accelerators. They serve no model: what is looked at is their pods."""
    try:
        for name, accelerator in accelerators.items():
            kube.apply(kube.manifest("GridNode", name, {
                "networkRef": {"name": env.NETWORK}, "mode": "Managed", "roles": ["Compute"], "accelerators": accelerator,
                "resources": {"cpu": "200m", "memory": "512Mi"}, "drain": {"deadlineSeconds": 10},
            }))
        yield
    finally:
        for name in accelerators:
            kube.kubectl("delete", "gn", name, "--ignore-not-found", "--timeout=180s")


def worker_pod(name):
    return kube.get("pod", f"worker-{name}-0", kube.SYSTEM)


def running_pod(name):
    def running():
        pod = worker_pod(name)
        phase, health = pod["status"]["phase"], device_health(pod)
        if phase == "Running" and set(health.values()) == {"Healthy"}:
            return pod
        raise ValueError({"phase": phase, "health": health})

    return wait_for(f"the worker of {name} to run on its healthy device", running, 180)


def device_health(pod):
    """Health by device id, as the kubelet knows it."""
    found = [status for container in pod["status"].get("containerStatuses", []) for status in container.get("allocatedResourcesStatus", [])]
    return {device["resourceID"]: device.get("health") for status in found for device in status.get("resources", [])}


def claim_of(pod):
    (status,) = pod["status"]["resourceClaimStatuses"]
    return kube.get("resourceclaim", status["resourceClaimName"], kube.SYSTEM)


def reasons(name):
    return {condition.get("reason"): condition.get("message", "") for condition in kube.get("gridnode", name)["status"]["conditions"]}


def test_a_gpu_is_allocated_by_extended_resource_and_by_dra_and_its_loss_is_named():
    with fake_gpus(2), gpu_nodes(**{EXTENDED: {"extendedResource": {"name": RESOURCE, "count": 1}}, DRA: {"dra": {"deviceClassName": DEVICE_CLASS, "count": 1}}}):
        plain, claimed = running_pod(EXTENDED), running_pod(DRA)
        (container,) = plain["spec"]["containers"]
        assert container["resources"]["limits"][RESOURCE] == container["resources"]["requests"][RESOURCE] == "1", container["resources"]
        claim = claim_of(claimed)
        (given,) = claim["status"]["allocation"]["devices"]["results"]
        assert (given["driver"], given["pool"]) == (DEVICE_CLASS, MACHINE), given
        assert [user["name"] for user in claim["status"]["reservedFor"]] == [f"worker-{DRA}-0"], claim["status"]
        for name, pod in ((EXTENDED, plain), (DRA, claimed)):
            assert pod["spec"]["nodeName"] == MACHINE and "DeviceLost" not in reasons(name), reasons(name)
        env.cluster("devices", "lose", MACHINE)
        for name in (EXTENDED, DRA):
            wait_for(f"{name} to say DeviceLost", lambda name=name: "DeviceLost" in reasons(name), 180)


def test_more_gpus_than_there_are_is_unschedulable_with_the_schedulers_words():
    with fake_gpus(1), gpu_nodes(**{EXTENDED: {"extendedResource": {"name": RESOURCE, "count": 2}}}):
        words = wait_for("Unschedulable", lambda: reasons(EXTENDED).get("Unschedulable"), 180)
        assert RESOURCE in words, words


ALL = [value for name, value in list(globals().items()) if name.startswith("test_")]
