"""`make up` and `make down`: cluster, chain, contract, image and chart on this machine, or chart alone on a cluster that the user has.

Everything is idempotent: a second `up` finds what is there, and `down` removes what an interrupted one left.
"""

import dataclasses
import json
import os
import pathlib
import sys

from . import existing, kube, place
from .chain import Chain
from .report import StepFailed, say, step
from .shell import CACHE, ROOT, STATE, Daemon, run, running_daemons, succeeds, wait_for

CHAIN_ID = 51
RPC_PORT = 8545
MODEL_PORT = 8546
NETWORK = "main"
EPOCH_SECONDS = 60
WINDOW_SECONDS = 10
MODEL_FILE = CACHE / "models" / "smollm2-135m-instruct.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
IMAGE = place.LOCAL_IMAGE

# The well-known accounts of every anvil chain: public, worth nothing anywhere else.
ACCOUNTS = {
    "admin": ("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266", "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    "reporter": ("0x70997970c51812dc3a010c7d01b50e0d17dc79c8", "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    "owner": ("0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc", "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    "cheat": ("0x90f79bf6eb2c4f870365e785982e1f101e93b906", "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    "anyone": ("0x15d34aaf54267db7d7c367839aaf71a00a2c6a65", "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
}


def use(chosen):
    """Makes `chosen` the place of everything below."""
    global PLACE, HOST, NODE_ADDRESS, P2P_PORT, RPC_URL, GATEWAY_URL, MODEL_URL
    PLACE, HOST, NODE_ADDRESS, P2P_PORT = chosen, chosen.host, chosen.node_address, chosen.p2p_port
    RPC_URL = f"http://{HOST}:{RPC_PORT}"
    MODEL_URL = f"http://{HOST}:{MODEL_PORT}/smollm2-135m-instruct.gguf"
    GATEWAY_URL = f"http://{NODE_ADDRESS}:{chosen.api_port}"
    kube.KUBECONFIG = chosen.kubeconfig


use(place.recorded())


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", CACHE / "target")) / "debug"


def binary(name):
    return target() / name


def key_file(account):
    path = STATE / "keys" / account
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(ACCOUNTS[account][1] + "\n")
    return path


def chain():
    return Chain(RPC_URL)


def contract():
    return json.loads((STATE / "contract.json").read_text())["contract"]


def cluster(verb, *words, **options):
    return run(ROOT / "tests" / "cluster" / "cluster.sh", verb, "--state", STATE, *words, **options)


def up():
    """Brings everything up; what is up already is left alone."""
    STATE.mkdir(exist_ok=True)
    for account in ACCOUNTS:
        key_file(account)
    if PLACE.local:
        with step("Kubernetes 1.37 with three nodes", ["tests/cluster/README.md", f"ls {STATE}/log"]):
            cluster("up", "--nodes", 3)
            kube.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
            kube.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
    with step("chain 51 and its reward contract", [f"less {STATE}/log/xdc-devnet.log"]):
        start_chain()
        deploy_contract()
    if PLACE.local:
        with step("image with the three server binaries, loaded into every node"):
            load_image()
    with step("Helm chart: CRDs, operator, gateway", [f"kubectl --kubeconfig {kube.KUBECONFIG} -n xdc-grid get pods,events"], component_logs()):
        install_chart()
    with step("GridNetwork names chain and contract", network_hints(), component_logs()):
        create_network()
    write_env()


def enter(objects, namespaces):
    """The first step on a cluster that the user has. See `existing.enter`."""
    STATE.mkdir(exist_ok=True)
    with step(f"your cluster: KUBECONFIG={PLACE.given}, image {PLACE.image}, chain and models on {HOST}"):
        use(existing.enter(PLACE, objects, namespaces))


def down(objects=()):
    """Removes all of it: processes and interfaces that `up` made, and on a cluster that the user has, `objects` and the release."""
    if not PLACE.local:
        with step(f"removing from your cluster ({PLACE.given}) what the demo made there"):
            existing.leave(PLACE, objects, NETWORK)
    with step("removing cluster, chain and workers" if PLACE.local else "removing chain and workers"):
        for daemon in running_daemons():
            daemon.stop()
        if PLACE.local and STATE.exists():
            cluster("down", check=False)
        run("rm", "-rf", STATE)


def start_chain():
    """The chain with XDC's rules: `xdc-devnet`, which starts and ends its own anvil."""
    devnet = Daemon("xdc-devnet")
    fresh = not devnet.alive()
    devnet.start(binary("xdc-devnet"), "--listen", f"{HOST}:{RPC_PORT}", "--chain-id", CHAIN_ID, "--block-time", 2)
    wait_for("the chain to answer", lambda: chain().chain_id() == CHAIN_ID, 120)
    if fresh:
        (STATE / "contract.json").unlink(missing_ok=True)


def deploy_contract():
    record = STATE / "contract.json"
    if record.exists() and chain().call("eth_getCode", contract(), "latest") != "0x":
        return
    answer = run(
        binary("kubectl-grid"), "contract", "deploy", "--rpc-url", RPC_URL, "--chain-id", CHAIN_ID,
        "--admin-key-file", key_file("admin"), "--epoch-seconds", EPOCH_SECONDS, "--window-seconds", WINDOW_SECONDS,
        "--reporter", ACCOUNTS["reporter"][0], "--fund-xdc", 1000, "-o", "json",
    )
    record.write_text(answer)


def load_image():
    cluster("load", pack_image())


def pack_image():
    """The OCI archive. The binaries are stripped first: line tables are for the developer's machine."""
    staged = STATE / "image"
    staged.mkdir(parents=True, exist_ok=True)
    names = ["grid-operator", "grid-gateway", "grid-worker"]
    stamp = json.dumps([[name, binary(name).stat().st_mtime_ns, binary(name).stat().st_size] for name in names])
    archive, marker = STATE / "image.tar", STATE / "image.stamp"
    if not archive.exists() or not marker.exists() or marker.read_text() != stamp:
        for name in names:
            run("strip", "-o", staged / name, binary(name))
        cluster("image", "--out", archive, "--ref", IMAGE, *[part for name in names for part in ("--binary", staged / name)])
        marker.write_text(stamp)
    return archive


def install_chart():
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.SYSTEM}})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reporter", "namespace": kube.SYSTEM}}
    kube.apply(secret | {"stringData": {"key": ACCOUNTS["reporter"][1]}})
    values = ROOT / "tests" / "e2e" / "values.yaml" if PLACE.local else existing.chart_values(PLACE)
    run("helm", "--kubeconfig", kube.KUBECONFIG, "upgrade", "--install", "xdc-grid", ROOT / "charts" / "xdc-grid",
        "--namespace", kube.SYSTEM, "--values", values, "--wait", "--timeout", "300s")
    if not PLACE.local:
        address, p2p, api = existing.gateway()
        use(dataclasses.replace(PLACE, node_address=address, p2p_port=p2p, api_port=api))
        PLACE.save()


def create_network():
    kube.apply(kube.manifest("GridNetwork", NETWORK, {
        "chain": {
            "chainID": CHAIN_ID, "rpcEndpoints": [RPC_URL], "contract": contract(),
            "reporterSecretRef": {"name": "reporter", "key": "key"},
        },
        "libp2p": {"externalAddresses": [f"/ip4/{NODE_ADDRESS}/tcp/{P2P_PORT}"]},
        "rewards": {"epochSeconds": EPOCH_SECONDS, "budgetPerEpochWei": str(10 * 10**18)},
        "verification": {"samplePercent": 50},
    }))
    kube.wait_condition("gridnetwork", NETWORK, "Ready", timeout=120)


def network_hints():
    hints = [f"kubectl --kubeconfig {kube.KUBECONFIG} describe gnet {NETWORK}"]
    if PLACE.local:
        return hints
    return [*hints, f"if the chain cannot be reached: pods must reach {HOST}; HOST_ADDRESS names another address of this machine (after `make down`)"]


def component_logs():
    prefix = f"kubectl --kubeconfig {kube.KUBECONFIG} -n xdc-grid"
    return [f"{prefix} get pods -o wide", f"{prefix} logs deploy/xdc-grid-operator --tail=25", f"{prefix} logs statefulset/xdc-grid-gateway --tail=25"]


def write_env():
    """What a person at a shell, and every example in the documentation, needs."""
    path = f"{target()}:{os.environ['PATH']}"
    lines = {
        "KUBECONFIG": kube.KUBECONFIG, "RPC_URL": RPC_URL, "CHAIN_ID": CHAIN_ID, "CONTRACT": contract(),
        "GATEWAY_URL": GATEWAY_URL, "MODEL_URL": MODEL_URL, "PATH": path,
    }
    (STATE / "env").write_text("".join(f"export {name}='{value}'\n" for name, value in lines.items()))


def serve_model():
    """The model server of the demo: one folder over HTTP, on the host side of the node network."""
    if not MODEL_FILE.exists():
        raise StepFailed(f"{MODEL_FILE} is missing; run `make tools`")
    daemon = Daemon("model-server")
    daemon.start(sys.executable, "-m", "http.server", MODEL_PORT, "--bind", HOST, "--directory", MODEL_FILE.parent)
    wait_for("the model server", lambda: succeeds("curl", "-sfI", MODEL_URL), 120)
