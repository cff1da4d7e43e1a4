"""A pool under a real HorizontalPodAutoscaler: Prometheus scrapes the gateway, prometheus-adapter serves what it finds as an external
metric by the rules of docs/user-guide/admin.md, and Kubernetes scales the pool of docs/examples by docs/examples/node-pool-hpa.yaml."""

import contextlib
import json
import re

from . import environment as env
from . import kube, story
from .shell import CACHE, ROOT, STATE, Daemon, run, wait_for

POOL = "scaled"
METRIC = "grid_queue_expected_wait_seconds"
API = "v1beta1.external.metrics.k8s.io"
PROMETHEUS_PORT, ADAPTER_PORT = 8548, 8549
ADAPTER_SERVICE = "prometheus-adapter"
# About two minutes of work for all nodes: the example's autoscaler wants more nodes for more than one.
FLOOD = "\n".join(f"Tell me a short story about the number {n}." for n in range(1, 1501))
# Answered greedily, this one repeats itself and is ended by nothing but its limit.
ENDLESS = "Tell me a short story about the number 7."
# Answers that a worker computes at once.
AT_ONCE = 4


def rules_of_the_guide():
    """The adapter's configuration: what the guide says to put into its chart's values, in the form that the program reads."""
    guide = (ROOT / "docs" / "user-guide" / "admin.md").read_text()
    (external,) = re.findall(r"^```yaml\nrules:\n  external:\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    return f"externalRules:\n{external}"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def start_prometheus():
    service = kube.get("service", "xdc-grid-gateway", kube.SYSTEM)["spec"]
    port = next(port["port"] for port in service["ports"] if port["name"] == "internal")
    # The label that a PodMonitor gives to what it finds.
    target = {"targets": [f"{service['clusterIP']}:{port}"], "labels": {"namespace": kube.SYSTEM}}
    configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "gateway", "static_configs": [target]}]}
    file = write(STATE / "metrics" / "prometheus.yml", json.dumps(configuration))
    Daemon("prometheus").start(
        CACHE / "bin" / "prometheus", f"--config.file={file}", f"--storage.tsdb.path={STATE}/metrics/data", "--storage.tsdb.retention.time=1h",
        f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}",
    )
    query = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query={METRIC}"
    wait_for("Prometheus to have the gateway's metric", lambda: json.loads(run("curl", "-sf", query))["data"]["result"], 180)


def start_adapter():
    file = write(STATE / "metrics" / "adapter.yml", rules_of_the_guide())
    access = [f"--{part}-kubeconfig={kube.KUBECONFIG}" for part in ("lister", "authentication", "authorization")]
    Daemon("prometheus-adapter").start(
        CACHE / "bin" / "prometheus-adapter", *access, f"--bind-address={env.HOST}", f"--secure-port={ADAPTER_PORT}",
        f"--cert-dir={STATE}/metrics/adapter-cert", f"--prometheus-url=http://127.0.0.1:{PROMETHEUS_PORT}", f"--config={file}",
        "--metrics-relist-interval=2s", "--metrics-max-age=60s",
    )
    name = {"name": ADAPTER_SERVICE, "namespace": kube.SYSTEM}
    # It runs on this machine, beside the cluster.
    kube.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"type": "ExternalName", "externalName": env.HOST}},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": API}, "spec": {
            "group": "external.metrics.k8s.io", "version": "v1beta1", "service": name | {"port": ADAPTER_PORT},
            "insecureSkipTLSVerify": True, "groupPriorityMinimum": 100, "versionPriority": 100,
        }},
    )
    wait_for("the metric to be served by the API server", lambda: external_metric() is not None, 180)


def external_metric():
    """What an autoscaler is told, in seconds."""
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{kube.SYSTEM}/{METRIC}?labelSelector=model%3D{story.MODEL}"
    found = json.loads(kube.kubectl("get", "--raw", path))["items"]
    return quantity(found[0]["value"]) if found else None


def quantity(text):
    """A Kubernetes quantity as they are in metrics: 12, 12500m, 1k."""
    scale = {"m": 0.001, "k": 1000.0, "M": 1e6}.get(text[-1])
    return float(text[:-1]) * scale if scale else float(text)


@contextlib.contextmanager
def metrics_adapter():
    run(ROOT / "tests" / "tools" / "install", "prometheus", "prometheus-adapter", timeout=1800)
    try:
        start_prometheus()
        start_adapter()
        yield
    finally:
        # First: a registered API that nobody serves keeps namespaces from going.
        kube.kubectl("delete", "apiservice", API, "--ignore-not-found", "--timeout=180s")
        kube.kubectl("-n", kube.SYSTEM, "delete", "service", ADAPTER_SERVICE, "--ignore-not-found", "--timeout=180s")
        Daemon("prometheus-adapter").stop()
        Daemon("prometheus").stop()


def example(name):
    """An example of the documentation as Python objects."""
    return json.loads(kube.kubectl("create", "--dry-run=client", "--output=json", "-f", ROOT / "docs" / "examples" / name))


def pool():
    wanted = example("node-pool.yaml")
    wanted["metadata"]["name"] = POOL
    wanted["spec"]["replicas"] = 1
    wanted["spec"]["template"]["spec"] |= {
        "networkRef": {"name": env.NETWORK}, "models": [story.MODEL], "roles": ["Compute"], "resources": {"cpu": "500m", "memory": "1Gi"},
        "drain": {"deadlineSeconds": 60},
    }
    return wanted


def autoscaler():
    """The example's, between one and two nodes, and without the patience that it has for good reasons."""
    wanted = example("node-pool-hpa.yaml")
    wanted["metadata"]["name"] = wanted["spec"]["scaleTargetRef"]["name"] = POOL
    wanted["spec"] |= {"minReplicas": 1, "maxReplicas": 2}
    at_once = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]}
    wanted["spec"]["behavior"] = {"scaleUp": at_once, "scaleDown": at_once}
    return wanted


def members():
    return sorted(node["metadata"]["name"] for node in kube.get_all("gridnodes", selector=f"xdcgrid.io/pool={POOL}"))


def conditions_of_the_autoscaler():
    found = kube.get("horizontalpodautoscaler", POOL, kube.SYSTEM).get("status", {}).get("conditions", [])
    return {condition["type"]: f"{condition['status']} {condition['reason']}: {condition['message']}" for condition in found}


def wait_members(what, wanted, timeout):
    """Waits for nodes of the pool; a failure tells what the autoscaler thinks."""

    def reached():
        names = members()
        if wanted(names):
            return names
        raise ValueError({"nodes": names, "metric": external_metric(), **conditions_of_the_autoscaler()})

    return wait_for(what, reached, timeout)


@contextlib.contextmanager
def autoscaled_pool():
    kube.apply(pool(), autoscaler())
    try:
        yield
    finally:
        kube.kubectl("-n", kube.SYSTEM, "delete", "horizontalpodautoscaler", POOL, "--ignore-not-found", "--timeout=180s")
        kube.kubectl("-n", kube.SYSTEM, "delete", "gridnodepool", POOL, "--ignore-not-found", "--timeout=180s")
        wait_for("the pool's nodes to be gone", lambda: not members(), 180)


def cancel(*jobs):
    for name in jobs:
        kube.kubectl("-n", story.TEAM, "delete", "inferencejob", name, "--ignore-not-found", "--timeout=180s")


def keep_busy(node, job):
    """Work that only this node may do, and enough of it; none of it waits, by the measure of the autoscaler."""
    kube.kubectl("label", "gridnode", node, "e2e=busy", "--overwrite")
    kube.apply(kube.manifest("InferenceJob", job, {
        "workload": {
            "modelRef": {"name": story.MODEL}, "input": {"format": "Lines", "inline": "\n".join([ENDLESS] * AT_ONCE)},
            "generation": {"maxTokens": 1200, "temperature": "0"}, "output": {"store": {}},
        },
        "placement": {"nodeSelector": {"e2e": "busy"}},
    }, namespace=story.TEAM))


def runs(job):
    """Whether a request of the job runs now."""
    return kube.condition(kube.get("inferencejob", job, story.TEAM), "Running").get("status") == "True"


def test_an_autoscaler_adds_a_node_while_requests_queue_and_takes_the_idle_one_away_after():
    with metrics_adapter():
        try:
            with autoscaled_pool():
                (first,) = wait_members("the pool's first node", lambda names: len(names) == 1, 180)
                kube.wait_condition("gridnode", first, "Ready", timeout=240)
                assert external_metric() == 0, "nothing waits yet"
                story.create_job("flood", FLOOD, output="flood-results")
                names = wait_members("a second node", lambda names: len(names) == 2, 180)
                (second,) = set(names) - {first}
                kube.wait_condition("gridnode", second, "Ready", timeout=300)
                # Of two idle ones the younger would go. It is given work.
                keep_busy(second, "busy")
                wait_for("the work to begin", lambda: runs("busy"), 180)
                cancel("flood")
                left = wait_members("one node to be left", lambda names: len(names) == 1, 180)
                assert runs("busy"), f"{second} was to have work until now, so that {first} is the idle one"
                assert left == [second], f"the idle node is {first}, and {left} is left"
                wait_for("the pool to count one", lambda: kube.get("gridnodepool", POOL, kube.SYSTEM)["status"]["replicas"] == 1, 180)
                cancel("busy")
        finally:
            cancel("flood", "busy")


ALL = [value for name, value in list(globals().items()) if name.startswith("test_")]
