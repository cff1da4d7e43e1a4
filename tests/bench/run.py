#!/usr/bin/env python3
"""`make bench`: measured figures of this machine, as the tables of docs/benchmarks.md. Nothing here is asserted.

    tests/bench/run.py            all sections
    tests/bench/run.py engine     only these: engine, up, operator, dispatch, gas
"""

import json
import os
import pathlib
import statistics
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from grid import environment as env
from grid import kube, story
from grid.shell import ROOT, run


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} × {line.split(':', 1)[1].strip()}"
    return f"{os.cpu_count()} cores"


def row(name, values, unit):
    """n, median and spread (lowest to highest) of one measured thing."""
    values = sorted(values)
    print(f"| {name} | {len(values)} | {statistics.median(values):.4g} | {values[0]:.4g} – {values[-1]:.4g} | {unit} |", flush=True)


def table(title):
    print(f"\n### {title}\n\n| what | n | median | spread | unit |\n|---|---|---|---|---|", flush=True)


def up():
    """`make up` on built programs, from nothing, three times."""
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


def operator():
    """Resident memory of the idle operator, ten readings."""
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


def gas():
    """Every transaction to the contract on the running chain, by function, as XDC would charge it."""
    table("gas on XDC's schedule (receipt gas + 52 × non-zero calldata bytes)")
    chain, address = env.chain(), env.contract().lower()
    names = selectors()
    found = {}
    for number in range(int(chain.call("eth_blockNumber"), 16) + 1):
        for transaction in chain.call("eth_getBlockByNumber", hex(number), True)["transactions"]:
            if (transaction["to"] or "").lower() == address:
                name = names.get(transaction["input"][:10], "transfer")
                found.setdefault(name, []).append(chain.gas_on_xdc(transaction["hash"]))
    for name, values in sorted(found.items()):
        row(name, values, "gas")


def selectors():
    abi = json.loads((ROOT / "contracts/abi/GridComputingRewards.json").read_text())["abi"]
    functions = [entry for entry in abi if entry["type"] == "function" and "tuple" not in str(entry)]
    signatures = [f"{entry['name']}({','.join(part['type'] for part in entry['inputs'])})" for entry in functions]
    return {run("cast", "sig", signature).strip(): signature.split("(")[0] for signature in signatures}


def engine():
    """Our engine and llama.cpp on the same file, interleaved in one run."""
    print("\n### engine against llama.cpp\n", flush=True)
    print(run("cargo", "test", "--quiet", "--locked", "--test", "it", "speed_beside", "--", "--ignored", "--nocapture", timeout=1800), flush=True)


SECTIONS = {"engine": engine, "up": up, "operator": operator, "dispatch": dispatch, "gas": gas}


def main():
    chosen = sys.argv[1:] or list(SECTIONS)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        sys.exit(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    print(f"on {processor()}, load {os.getloadavg()[0]:.1f}")
    for name in chosen:
        SECTIONS[name]()


main()
