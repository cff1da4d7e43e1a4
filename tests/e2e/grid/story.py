"""The main job of the product, step by step, on real parts: model, nodes, a job, a cheat, an epoch, a paid claim."""

import hashlib
import json
import os
import re
import signal

from . import environment as env
from . import kube, report
from .chain import xdc
from .report import say, step
from .shell import ROOT, STATE, Daemon, run, succeeds, wait_for

MODEL = "smollm2-135m-instruct"
TEAM = "team-a"
JOB = "hello"
MANAGED = ("node-a", "node-b")
EXTERNAL = "home"
CHEAT = "mallory"
# Nobody holds a key to these: whatever arrives there came from a claim.
PAYOUT = {
    "node-a": "0x00000000000000000000000000000000000aaaa1",
    "node-b": "0x00000000000000000000000000000000000bbbb2",
    EXTERNAL: "0x00000000000000000000000000000000000ccc03",
    CHEAT: "0x0000000000000000000000000000000000bad004",
}
STAKE = 10**18
# Without one, this small model takes a short question for a text to continue.
SYSTEM_MESSAGE = "You are a helpful assistant."
# What the story makes on the cluster, in the order of its removal. (kind, name, namespace)
OBJECTS = [
    ("inferencejob", JOB, TEAM), ("configmap", f"{JOB}-results", TEAM),
    *(("gridnode", name, None) for name in (*MANAGED, EXTERNAL, CHEAT)),
    ("gridmodel", MODEL, None), ("gridnetwork", env.NETWORK, None),
]
NAMESPACES = (TEAM, kube.SYSTEM)
PROMPTS = ROOT / "tests" / "e2e" / "prompts.txt"


def tell():
    """The whole story. Leaves everything running."""
    with step("GridModel: fetched once by the gateway, digest checked", [f"kubectl --kubeconfig {kube.KUBECONFIG} describe gm"], env.component_logs()):
        create_model()
    with step("two managed nodes and one machine behind NAT: authenticated, measured, staked, Ready",
              [f"kubectl --kubeconfig {kube.KUBECONFIG} describe gn", f"less {STATE}/log/worker-{EXTERNAL}.log"], node_logs()):
        for name in MANAGED:
            create_managed_node(name)
        create_external_node(EXTERNAL, "owner")
        for name in (*MANAGED, EXTERNAL):
            kube.wait_condition("gridnode", name, "Ready", timeout=240)
    with step("a cheating machine joins: honest at first, later it answers from another model", [f"less {STATE}/log/worker-{CHEAT}.log"], node_logs()):
        create_external_node(CHEAT, "cheat", cheating=True)
        # Told again, the story has caught it already.
        if kube.condition(kube.get("gridnode", CHEAT), "Quarantined").get("status") != "True":
            kube.wait_condition("gridnode", CHEAT, "Ready", timeout=240)
    with step("InferenceJob: 24 prompts over the grid", [f"kubectl --kubeconfig {kube.KUBECONFIG} -n {TEAM} describe ij {JOB}"], env.component_logs() + node_logs()):
        run_job()
    show_answers()
    with step("the cheat is caught by replay and quarantined", [f"kubectl --kubeconfig {kube.KUBECONFIG} describe gn {CHEAT}"], env.component_logs()):
        kube.wait_condition("gridnode", CHEAT, "Quarantined", timeout=180)
    with step("epoch closes, report is written, final on chain, window passed", [f"kubectl --kubeconfig {kube.KUBECONFIG} get ctr -o yaml"], env.component_logs()):
        wait_paid_epoch()
    with step("node-a claims"):
        claim("node-a")
    summarise()


def create_model():
    env.serve_model()
    kube.apply(kube.manifest("GridModel", MODEL, {
        "source": {"url": env.MODEL_URL}, "sha256": env.MODEL_SHA256, "format": "GGUF", "license": "Apache-2.0", "replicas": 1,
    }))
    kube.wait_condition("gridmodel", MODEL, "Resolved", timeout=180)


def create_managed_node(name):
    # On the local cluster each has a machine of its own; of another cluster's nodes nothing is known.
    machine = {"nodeSelector": {"kubernetes.io/hostname": f"node-{MANAGED.index(name) + 1}"}} if env.PLACE.local else {}
    kube.apply(kube.manifest("GridNode", name, {
        "networkRef": {"name": env.NETWORK}, "mode": "Managed", "approved": True, "models": [MODEL],
        "roles": ["Compute", "Verify", "Storage"],
        "accelerators": {"cpuOnly": {}},
        "resources": {"cpu": "1", "memory": "1Gi"},
        "rewards": {"payoutAddress": PAYOUT[name], "stakeWei": str(STAKE)},
    } | machine))


def create_external_node(name, owner, cheating=False):
    """A home machine: a network namespace behind masquerade (this machine, beside a cluster of the user's), its own key, its own stake,
    dialling out."""
    folder = STATE / "home" / name
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "node.key"
    if not key.exists():
        run(env.binary("grid-worker"), "keygen", "--out", key)
    peer_id = re.search(r"16Uiu2HA\w+", run(env.binary("grid-worker"), "id", "--key-file", key))[0]
    kube.apply(kube.manifest("GridNode", name, {
        "networkRef": {"name": env.NETWORK}, "mode": "External", "approved": True, "models": [MODEL], "roles": ["Compute"],
        "peerID": peer_id,
        "rewards": {"payoutAddress": PAYOUT[name], "stakeWei": str(STAKE)},
    }))
    if env.PLACE.local:
        env.cluster("nat", name)
    start_external_worker(name, cheating)
    register(name, owner, key)


def start_external_worker(name, cheating=False):
    gateway = kube.get("gridnetwork", env.NETWORK)["status"]["gateways"][0]
    address = next(address for address in gateway["addresses"] if env.NODE_ADDRESS in address)
    folder = STATE / "home" / name
    program = [env.target() / "examples" / "grid-cheater", "--honest-answers", 2] if cheating else [env.binary("grid-worker"), "run"]
    home = ["nsenter", f"--net=/var/run/netns/xg-nat-{name}", "--"] if env.PLACE.local else []
    Daemon(f"worker-{name}").start(
        *home, *program,
        "--key-file", folder / "node.key", "--data-dir", folder / "data", "--gateway", address,
        "--chain-id", env.CHAIN_ID, "--contract", env.contract(), "--http-address", "127.0.0.1:8088" if home else "127.0.0.1:0",
        "--threads", 1, env=os.environ | {"GRID_LOG": "info"},
    )


def register(name, owner, key):
    """The owner stakes from outside, once; the node key signs its consent."""
    if (STATE / "home" / name / "registered").exists():
        return
    run(env.binary("grid-worker"), "register", "--rpc-url", env.RPC_URL, "--chain-id", env.CHAIN_ID, "--contract", env.contract(),
        "--owner-key-file", env.key_file(owner), "--key-file", key, "--stake-xdc", 1, "--payout", PAYOUT[name])
    (STATE / "home" / name / "registered").touch()


def create_job(name, prompts, model=MODEL, output=None, **spec):
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}})
    kube.apply(kube.manifest("InferenceJob", name, {
        "workload": {
            "modelRef": {"name": model}, "endpoint": "/v1/chat/completions",
            "input": {"format": "Lines", "inline": prompts},
            "generation": {"maxTokens": 32, "temperature": "0", "seed": 7, "systemMessage": SYSTEM_MESSAGE},
            "output": {"configMap": {"name": output or f"{name}-results"}},
        },
        "placement": {"target": "Grid"},
    } | spec, namespace=TEAM))


def run_job():
    create_job(JOB, PROMPTS.read_text())
    finished = watch_job(JOB)
    counts = finished["status"]["requests"]
    assert counts["completed"] == 24 and counts["failed"] == 0, counts
    workers = {entry["nodeName"] for entry in finished["status"]["assignments"]}
    assert set((*MANAGED, EXTERNAL)) <= workers, f"answers came from {workers} only"
    answers = results(JOB)
    assert len(answers) == 24, len(answers)
    assert "Paris" in answers["line-1"], answers["line-1"]


def watch_job(name, timeout=600):
    """Shows each change of progress, as `kubectl get ij -w` does, until the job is complete."""
    seen = None

    def complete():
        nonlocal seen
        job = kube.get("inferencejob", name, TEAM)
        status = job.get("status", {})
        line = f"    {name}  {status.get('phase', 'Pending')}  {status.get('progress', '-')}"
        if line != seen:
            say(line)
            seen = line
        assert kube.condition(job, "Failed").get("status") != "True", kube.condition(job, "Failed").get("message")
        if kube.condition(job, "Complete").get("status") == "True":
            return job
        raise ValueError([f"{c['type']}={c['status']} {c.get('reason')}: {c.get('message', '')}" for c in status.get("conditions", [])])

    return wait_for(f"job {name} to complete", complete, timeout)


def results(name):
    """Answers by custom_id."""
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in result_lines(name)}


def result_lines(name):
    """Lines of results.jsonl, after checking the manifest's digests."""
    data = kube.get("configmap", f"{name}-results", TEAM)["data"]
    listed = json.loads(data["manifest.json"])
    for part in ("results.jsonl", "errors.jsonl"):
        assert hashlib.sha256(data[part].encode()).hexdigest() == listed["sha256"][part], f"{part} is not what the manifest says"
    return [json.loads(line) for line in data["results.jsonl"].splitlines()]


def errors(name):
    data = kube.get("configmap", f"{name}-results", TEAM)["data"]
    return {line["custom_id"]: line["error"] for line in map(json.loads, data["errors.jsonl"].splitlines())}


def show_answers():
    for question, (_, answer) in list(zip(PROMPTS.read_text().splitlines(), sorted(results(JOB).items(), key=lambda item: int(item[0].split("-")[1]))))[:3]:
        say(f"    {question}  →  {' '.join(answer.split())[:90]}")


def grid(*command):
    return run(env.binary("kubectl-grid"), *command, env=os.environ | {"KUBECONFIG": kube.KUBECONFIG})


def rewards():
    return {row["node"]: row for row in json.loads(grid("rewards", "show", "-o", "json"))}


def wait_paid_epoch(timeout=600):
    """Until every honest node has something to claim: its epoch is reported, final and past the window."""

    def claimable():
        rows = rewards()
        return all(int(rows[name]["claimableWei"]) > 0 for name in (*MANAGED, EXTERNAL)) and rows

    rows = wait_for("claimable rewards of all honest nodes", claimable, timeout, every=2)
    assert int(rows[CHEAT]["earnedWei"]) == 0, f"the cheat earned {rows[CHEAT]}"


def claim(name):
    chain = env.chain()
    before = chain.balance(PAYOUT[name])
    answer = json.loads(grid("rewards", "claim", name, "--rpc-url", env.RPC_URL, "--key-file", env.key_file("anyone"), "-o", "json"))
    after = chain.balance(PAYOUT[name])
    assert after - before == int(answer["amountWei"]) > 0, f"{before} -> {after}, claim said {answer}"
    say(f"    payout {PAYOUT[name]}: {xdc(before)} → {xdc(after)}; gas {answer['gasUsed']} ({chain.gas_on_xdc(answer['transaction'])} on XDC's schedule)")


def summarise():
    """Who did and earned what, and what it cost on chain."""
    job = kube.get("inferencejob", JOB, TEAM)["status"]
    work = report.work_by_node(result_lines(JOB))
    say(f"    {job['tokens']['prompt']} prompt and {job['tokens']['output']} output tokens in {job['requests']['completed']} answers")
    counted = {kind: sum(done[kind] for done in work.values()) for kind in ("prompt", "output")}
    assert counted == {kind: job["tokens"][kind] for kind in counted}, f"the job counts {job['tokens']}, its results {counted}"
    for line in report.earnings_table(work, rewards()):
        say(f"    {line}")
    for written in kube.get_all("contributionreports"):
        sent = written["status"].get("submit", {})
        if sent.get("transactionHash"):
            gas = env.chain().gas_on_xdc(sent["transactionHash"])
            say(f"    report {written['metadata']['name']}: {written['spec']['allocated']} XDC allocated, gas {sent['gasUsed']} ({gas} on XDC's schedule)")


def node_logs():
    prefix = f"kubectl --kubeconfig {kube.KUBECONFIG}"
    workers = [f"tail -25 {STATE}/log/worker-{name}.log" for name in (EXTERNAL, CHEAT) if (STATE / "log" / f"worker-{name}.log").exists()]
    return [f"{prefix} get gn -o wide", f"{prefix} -n xdc-grid get pods -o wide", f"{prefix} -n xdc-grid logs -l app.kubernetes.io/component=worker --tail=15", *workers]


def stop_external_worker(name, sign=signal.SIGTERM):
    Daemon(f"worker-{name}").stop(sign)


def reachable(url):
    return succeeds("curl", "-sf", "--max-time", "5", url)
