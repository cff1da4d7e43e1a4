"""The local cluster with everything on it: how long it takes, and what the parts do there."""

import json
import pathlib
import time
import urllib.request

from grid import environment as env
from grid import kube, story
from grid.shell import ROOT, run

from .table import row, table


def up():
    """`make up` on built programs, from nothing, three times, and the story on top."""
    table("make up, after builds (goal ≤ 60 s)")
    times = []
    for _ in range(3):
        run("python3", ROOT / "tests/e2e/demo.py", "down")
        begun = time.monotonic()
        run("python3", ROOT / "tests/e2e/demo.py", "up")
        times.append(time.monotonic() - begun)
    row("make up", times, "s")
    begun = time.monotonic()
    run("python3", ROOT / "tests/e2e/demo.py", "demo", timeout=900)
    row("the story on top of it (goal for both ≤ 300 s)", [time.monotonic() - begun], "s")


def idle():
    """Resident memory of the operator in the cluster of `make demo`, ten readings."""
    table("operator, idle (goal ≤ 64 MiB)")
    readings = []
    for _ in range(10):
        readings += [rss_mib(pid) for pid in pids_of("grid-operator")]
        time.sleep(1)
    row("resident set", readings, "MiB")


def pids_of(program):
    found = run("pgrep", "-x", program[:15], check=False).split()
    return [int(pid) for pid in found]


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def dispatch():
    """From the gateway's own histogram, after 200 one-token requests through the OpenAI API, one at a time."""
    table("dispatch, gateway offers to worker accepts (goal p50 ≤ 5 ms)")
    before = histogram()
    for number in range(200):
        ask(f"Say the number {number}.")
    after = histogram()
    counts = {edge: after[edge] - before.get(edge, 0) for edge in after}
    total = counts[float("inf")]
    for share in (0.5, 0.9, 0.99):
        print(f"| p{share * 100:.0f} | {total:.0f} | ≤ {quantile(counts, share) * 1000:.3g} | bucket edge | ms |", flush=True)


def ask(content):
    body = {"model": story.MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0}
    request = urllib.request.Request(f"{env.GATEWAY_URL}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def histogram(name="grid_dispatch_seconds_bucket"):
    """Cumulative counts by upper edge in seconds, summed over outcomes."""
    text = kube.kubectl("get", "--raw", f"/api/v1/namespaces/{kube.SYSTEM}/pods/xdc-grid-gateway-0:9090/proxy/metrics")
    counts = {}
    for line in text.splitlines():
        if line.startswith(name):
            edge = float(line.split('le="')[1].split('"')[0].replace("+Inf", "inf"))
            counts[edge] = counts.get(edge, 0) + float(line.split()[-1])
    return counts


def quantile(counts, share):
    wanted = counts[float("inf")] * share
    return next(edge for edge in sorted(counts) if counts[edge] >= wanted)
