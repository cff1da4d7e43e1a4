"""What a Prometheus would scrape from the running grid, against docs/metrics.md and Prometheus's own check."""

import re

from . import kube
from .shell import ROOT, run, wait_for

PORTS = {"operator": 8080, "gateway": 9090, "worker": 8080}


def scrape(component):
    """The metrics page of a ready pod of that component."""
    pods = kube.get_all("pods", kube.SYSTEM, f"app.kubernetes.io/component={component}")
    ready = [pod["metadata"]["name"] for pod in pods if kube.condition(pod, "Ready").get("status") == "True"]
    return kube.kubectl("get", "--raw", f"/api/v1/namespaces/{kube.SYSTEM}/pods/{ready[0]}:{PORTS[component]}/proxy/metrics")


def documented_types():
    return dict(re.findall(r"^\| `(grid_\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))


def test_every_process_serves_the_metrics_that_are_documented():
    documented = documented_types()
    for component in PORTS:
        # The pods of a test before this one may still be on their way out.
        page = wait_for(f"the metrics of the {component}", lambda component=component: scrape(component))
        run("promtool", "check", "metrics", stdin=page)
        served = dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))
        assert served, f"{component} serves no metric"
        wrong = {name: kind for name, kind in served.items() if documented.get(name) != kind}
        assert not wrong, f"{component}: not as in docs/metrics.md: {wrong}"


ALL = [value for name, value in list(globals().items()) if name.startswith("test_")]
