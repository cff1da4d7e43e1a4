"""What may go wrong while the grid works, and bad input: each a test on the running cluster after the story."""

import json
import signal
import subprocess

from . import environment as env
from . import kube, person, story
from .embeddings import test_embeddings_of_a_job_and_of_the_openai_client  # noqa: F401
from .shell import CACHE, ROOT, Daemon, run, wait_for

# Long enough to break something in its middle, also on a fast machine.
LONG_LENGTH = 40
LONG = "\n".join(f"Tell me a short story about the number {n}." for n in range(1, LONG_LENGTH + 1))


def long_job(name):
    """A job that runs long enough to break something in its middle; returns once answers come in."""
    story.create_job(name, LONG)
    wait_for(f"{name} to be in its middle", lambda: 0 < status(name)["requests"]["completed"] < LONG_LENGTH, 180, every=0.2)


def status(name):
    return kube.get("inferencejob", name, story.TEAM)["status"]


def assert_each_request_counted_once(name, total=LONG_LENGTH):
    job = story.watch_job(name)
    counts, assignments = job["status"]["requests"], job["status"]["assignments"]
    assert counts["completed"] + counts["failed"] == total and counts["failed"] == 0, counts
    assert sum(entry["requests"] for entry in assignments) == total, assignments
    assert len(story.results(name)) == total


def test_a_killed_worker_loses_no_request_and_nothing_is_paid_twice():
    long_job("killed-worker")
    story.stop_external_worker(story.EXTERNAL, signal.SIGKILL)
    kube.kubectl("-n", kube.SYSTEM, "delete", "pod", "-l", "xdcgrid.io/node=node-a", "--grace-period=0", "--force")
    assert_each_request_counted_once("killed-worker")
    story.start_external_worker(story.EXTERNAL)
    for name in ("node-a", story.EXTERNAL):
        kube.wait_condition("gridnode", name, "Ready", timeout=240)


def test_a_node_cut_from_the_network_for_30_seconds_comes_back_and_the_job_completes():
    long_job("cut-node")
    env.cluster("node", "cut", "node-2")
    try:
        wait_for("node-2 to be seen as lost", lambda: kube.condition(kube.get("node", "node-2"), "Ready")["status"] != "True", 180)
    finally:
        env.cluster("node", "heal", "node-2")
    assert_each_request_counted_once("cut-node")
    kube.wait_condition("node", "node-2", "Ready", timeout=180)
    kube.wait_condition("gridnode", "node-b", "Ready", timeout=240)


def test_a_gateway_restart_in_mid_job_loses_nothing():
    long_job("gateway-restart")
    kube.kubectl("-n", kube.SYSTEM, "delete", "pod", "xdc-grid-gateway-0", "--grace-period=1")
    assert_each_request_counted_once("gateway-restart")


def test_a_job_waits_while_the_gateway_is_away_and_says_why():
    kube.kubectl("-n", kube.SYSTEM, "scale", "statefulset/xdc-grid-gateway", "--replicas=0")
    wait_for("the gateway to be gone", lambda: not kube.exists("pod", "xdc-grid-gateway-0", kube.SYSTEM), 180)
    story.create_job("patient", "What is the capital of France?")
    try:
        wait_for("the reason", lambda: any(c.get("reason") == "GatewayUnavailable" for c in status("patient")["conditions"]), 180)
    finally:
        kube.kubectl("-n", kube.SYSTEM, "scale", "statefulset/xdc-grid-gateway", "--replicas=1")
    story.watch_job("patient")
    assert "Paris" in story.results("patient")["line-1"]


def test_an_operator_killed_between_report_steps_reports_each_epoch_once():
    for after in ("Planned", "Signed", "Sent", "Included"):
        first = last_epoch()
        kube.kubectl("-n", kube.SYSTEM, "set", "env", "deployment/xdc-grid-operator", f"GRID_CRASH_AFTER={after}")
        wait_for(f"an epoch to be reported over a crash after {after}", lambda: last_epoch() > first and restarts() > 0, 240, every=2)
    kube.kubectl("-n", kube.SYSTEM, "set", "env", "deployment/xdc-grid-operator", "GRID_CRASH_AFTER-")
    kube.kubectl("-n", kube.SYSTEM, "rollout", "status", "deployment/xdc-grid-operator", "--timeout=180s")
    epochs = submitted_epochs()
    assert epochs == list(range(epochs[0], epochs[0] + len(epochs))), f"epochs on chain: {epochs}"


def last_epoch():
    return max(submitted_epochs(), default=-1)


def submitted_epochs():
    """Epoch numbers of all EpochSubmitted events, in chain order."""
    topic = run("cast", "keccak", event_signature()).strip()
    return [int(log["topics"][1], 16) for log in env.chain().logs(env.contract(), topic)]


def event_signature():
    """From the committed ABI, so that a change of the event cannot make this test look at nothing."""
    abi = json.loads((ROOT / "contracts" / "abi" / "GridComputingRewards.json").read_text())["abi"]
    event = next(entry for entry in abi if entry["type"] == "event" and entry["name"] == "EpochSubmitted")
    return f"EpochSubmitted({','.join(part['type'] for part in event['inputs'])})"


def restarts():
    pods = kube.get_all("pods", kube.SYSTEM, "app.kubernetes.io/component=operator")
    return sum(state["restartCount"] for pod in pods for state in pod["status"].get("containerStatuses", []))


def test_the_openai_client_gets_answers_streamed_and_whole():
    script = ROOT / "tests" / "e2e" / "openai_client.py"
    run(CACHE / "openai" / "bin" / "python", script, env.GATEWAY_URL, story.MODEL)


def test_a_missing_model_is_named():
    story.create_job("no-model", "Hello?", model="nobody-has-this")
    wait_for("ModelNotFound", lambda: any(c.get("reason") == "ModelNotFound" for c in status("no-model")["conditions"]), 180)
    kube.kubectl("-n", story.TEAM, "delete", "ij", "no-model", "--timeout=180s")


def test_a_wrong_digest_is_refused_with_both_values():
    wrong = "00" * 32
    kube.apply(kube.manifest("GridModel", "wrong-digest", {"source": {"url": env.MODEL_URL}, "sha256": wrong, "format": "GGUF", "license": "Apache-2.0"}))
    found = wait_for("ModelDigestMismatch", lambda: mismatch("wrong-digest"), 180)
    assert wrong in found["message"] and env.MODEL_SHA256 in found["message"], found
    kube.kubectl("delete", "gm", "wrong-digest", "--timeout=180s")


def mismatch(name):
    model = kube.get("gridmodel", name)
    return next((c for c in model["status"]["conditions"] if c.get("reason") == "ModelDigestMismatch"), None)


def test_bad_batch_lines_become_errors_and_the_rest_runs():
    def line(custom_id, content, model=story.MODEL):
        body = {"model": model,
                "messages": [{"role": "system", "content": story.SYSTEM_MESSAGE}, {"role": "user", "content": content}], "max_tokens": 16, "temperature": 0}
        return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})

    lines = [line("good", "What is the capital of France?"), "{not json", line("other", "Hi", "another-model"), line("good", "Again")]
    kube.apply(kube.manifest("InferenceJob", "mixed", {
        "workload": {
            "modelRef": {"name": story.MODEL}, "endpoint": "/v1/chat/completions",
            "input": {"format": "OpenAIBatch", "inline": "\n".join(lines)}, "output": {"configMap": {"name": "mixed-results"}},
        },
    }, namespace=story.TEAM))
    job = story.watch_job("mixed")
    assert job["status"]["requests"] == {"total": 4, "completed": 1, "failed": 3}, job["status"]["requests"]
    assert "Paris" in story.results("mixed")["good"]
    found = story.errors("mixed")
    assert "other" in found and "another-model" in found["other"]["message"], found


def test_results_in_the_store_are_read_with_kubectl_grid_and_go_with_the_job():
    kube.apply(kube.manifest("InferenceJob", "stored", {
        "workload": {
            "modelRef": {"name": story.MODEL}, "input": {"format": "Lines", "inline": "What is the capital of France?"},
            "generation": {"maxTokens": 16, "temperature": "0", "systemMessage": story.SYSTEM_MESSAGE}, "output": {"store": {}},
        },
    }, namespace=story.TEAM))
    story.watch_job("stored")
    for way in ([], ["--gateway", env.GATEWAY_URL]):
        printed = story.grid("results", "stored", "-n", story.TEAM, "-o", "json", *way)
        assert "Paris" in json.loads(printed)[0]["response"]["body"]["choices"][0]["message"]["content"], printed
    store = status("stored")["output"]["store"]
    url = f"{env.GATEWAY_URL}{store['path']}manifest.json"
    code = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url]
    assert run(*code) == "401", "nobody reads them without the key"
    key = ["-H", f"X-Grid-Read-Key: {store['readKey']}"]
    assert run(*code, *key) == "200"
    kube.kubectl("-n", story.TEAM, "delete", "ij", "stored", "--timeout=180s")
    # The gateway is told once the job is gone.
    wait_for("its files to be forgotten", lambda: run(*code, *key) == "404", 180)


LOCAL = """What is the capital of France?
Name three primary colours.
How many days has a week?
What is the opposite of hot?
Which planet do we live on?
What do bees make?"""


def local_job(name, prompts, **placement):
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": story.TEAM}})
    kube.apply(kube.manifest("InferenceJob", name, {
        "workload": {
            "modelRef": {"name": story.MODEL}, "endpoint": "/v1/chat/completions", "shardSize": 3,
            "input": {"format": "Lines", "inline": prompts},
            "generation": {"maxTokens": 24, "temperature": "0", "systemMessage": story.SYSTEM_MESSAGE},
            "output": {"configMap": {"name": f"{name}-results"}},
        },
        "placement": {"target": "Local"} | placement,
        "parallelism": 2,
    }, namespace=story.TEAM))
    return kube.get("inferencejob", name, story.TEAM)["metadata"]["uid"]


def children(uid, kind="jobs"):
    return kube.get_all(kind, story.TEAM, f"xdcgrid.io/job-uid={uid}")


def test_a_local_job_gives_the_answers_of_the_grid_from_pods_of_its_own_namespace():
    uid = local_job("here", LOCAL)
    job = story.watch_job("here")
    assert job["status"]["requests"] == {"total": 6, "completed": 6, "failed": 0}, job["status"]["requests"]
    assert all(entry["nodeName"].startswith("node-") for entry in job["status"]["assignments"]), job["status"]["assignments"]
    child, = children(uid)
    assert child["spec"]["completionMode"] == "Indexed" and child["spec"]["completions"] == 2, child["spec"]
    wait_for("text and access to be gone", lambda: not children(uid, "configmaps,roles,serviceaccounts"), 180)
    here = story.results("here")
    assert "Paris" in here["line-1"], here["line-1"]
    story.create_job("there", LOCAL, workload={
        "modelRef": {"name": story.MODEL}, "endpoint": "/v1/chat/completions",
        "input": {"format": "Lines", "inline": LOCAL},
        "generation": {"maxTokens": 24, "temperature": "0", "systemMessage": story.SYSTEM_MESSAGE},
        "output": {"configMap": {"name": "there-results"}},
    })
    story.watch_job("there")
    assert here == story.results("there"), "greedy answers differ between Local and Grid"


def test_a_local_job_whose_pod_is_killed_loses_no_request():
    uid = local_job("killed-pod", LOCAL)
    running = wait_for("a pod to run", lambda: [pod for pod in children(uid, "pods") if pod["status"]["phase"] == "Running"], 180)
    kube.kubectl("-n", story.TEAM, "delete", "pod", running[0]["metadata"]["name"], "--grace-period=1")
    job = story.watch_job("killed-pod")
    assert job["status"]["requests"] == {"total": 6, "completed": 6, "failed": 0}, job["status"]["requests"]
    assert len(story.results("killed-pod")) == 6


def test_a_local_job_that_fits_no_node_says_so_and_is_cancelled():
    local_job("too-big", LOCAL, local={"resources": {"cpu": 64, "memory": "1Gi"}})
    wait_for("Unschedulable", lambda: any(c.get("reason") == "Unschedulable" for c in status("too-big")["conditions"]), 180)
    kube.kubectl("-n", story.TEAM, "patch", "ij", "too-big", "--type=merge", "-p", '{"spec": {"cancel": true}}')
    kube.wait_condition("inferencejob", "too-big", "Failed", story.TEAM, timeout=180)
    assert {error["code"] for error in story.errors("too-big").values()} == {"Cancelled"}


def test_an_unknown_field_is_refused():
    try:
        kube.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(
            kube.manifest("GridModel", "typo", {"source": {"url": env.MODEL_URL}, "sha256": env.MODEL_SHA256, "format": "GGUF", "licence": "x"})))
    except subprocess.CalledProcessError as refused:
        assert "licence" in refused.stderr, refused.stderr
    else:
        raise AssertionError("an unknown field was accepted")


def test_wrong_chain_id_and_a_contract_without_code_are_named():
    for name, change, reason in (
        ("wrong-chain", {"chainID": 50}, "WrongChainId"),
        ("no-code", {"contract": "0x" + "77" * 20}, "ContractWithoutCode"),
    ):
        spec = kube.get("gridnetwork", env.NETWORK)["spec"]
        spec["chain"] |= change
        kube.apply(kube.manifest("GridNetwork", name, spec))
        wait_for(reason, lambda: any(c.get("reason") == reason for c in kube.get("gridnetwork", name)["status"]["conditions"]), 180)
        kube.kubectl("delete", "gnet", name, "--timeout=180s")


def test_helm_test_runs_a_tiny_job():
    run("helm", "--kubeconfig", kube.KUBECONFIG, "test", "xdc-grid", "-n", kube.SYSTEM, "--timeout", "300s")


def test_external_worker_keeps_its_reputation_over_a_restart():
    before = kube.get("gridnode", story.EXTERNAL)["status"]
    story.stop_external_worker(story.EXTERNAL)
    kube.wait_condition("gridnode", story.EXTERNAL, "PeerConnected", timeout=180, status="False")
    story.start_external_worker(story.EXTERNAL)
    kube.wait_condition("gridnode", story.EXTERNAL, "Ready", timeout=180)
    after = kube.get("gridnode", story.EXTERNAL)["status"]
    assert after["nodeAddress"] == before["nodeAddress"]
    assert after["evidence"]["passed"] >= before["evidence"]["passed"] > 0, (before["evidence"], after["evidence"])


def test_the_commands_of_the_readme_work():
    print(run("python3", ROOT / "tests" / "readme" / "run.py", timeout=900), end="", flush=True)


ALL = [value for name, value in list(globals().items()) if name.startswith("test_")] + person.ALL
