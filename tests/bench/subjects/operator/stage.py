"""Sets up and takes down what the operator runs against. Everything listens on the loopback, beside whatever else runs here."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time

from grid.chain import Chain
from grid.environment import ACCOUNTS, CHAIN_ID, MODEL_FILE, MODEL_SHA256, binary
from grid.shell import ROOT, run, wait_for

from ..audit import Audit, of_job
from .process import Process, answers, cpu_seconds, free_port, get

STATE = ROOT / ".cluster-bench"
SYSTEM, TEAM = "xdc-grid", "bench"
NETWORK, MODEL = "bench", "smollm2-135m-instruct"
OPERATOR = f"system:serviceaccount:{SYSTEM}:xdc-grid-operator"
# The pods of brief Local jobs.
PODS = f"system:serviceaccount:{TEAM}:xdc-grid-job-pods"
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
CLUSTER = ROOT / "tests" / "cluster" / "cluster.sh"


def scaled(count, least=1):
    return max(least, int(count * SCALE))


class Stage:
    def __init__(self):
        self.log = STATE / "log"
        self.kubeconfig = STATE / "kubeconfig"
        self.processes = contextlib.ExitStack()
        self.operator = None
        self.made = 0

    def enter(self):
        self.leave()
        try:
            self._enter()
        except BaseException:
            self.leave(keep_logs=True)
            raise

    def _enter(self):
        say("API server, etcd and Job controller, on their own")
        run(CLUSTER, "control-plane", "--controllers", "--state", STATE)
        self.audit = Audit(STATE / "audit.log", OPERATOR)
        self.audit_of_pods = Audit(STATE / "audit.log", PODS)
        self.server = re.search(r'server: "([^"]+)"', self.kubeconfig.read_text())[1]
        self.load_program = STATE / "load"
        run("go", "build", "-C", ROOT / "tests" / "bench" / "load", "-trimpath", "-o", self.load_program, ".")
        run("kubectl", "--kubeconfig", self.kubeconfig, "apply", "--server-side", "-f", ROOT / "crds")
        self._chain()
        self._gateway()
        self._accounts()
        self._model_server()
        self.start_operator()
        self._network()

    def leave(self, keep_logs=False):
        self.processes.close()
        if STATE.exists():
            run(CLUSTER, "down", "--state", STATE, check=False)
            if not keep_logs:
                shutil.rmtree(STATE, ignore_errors=True)

    # -------------------------------------------------------------------------------------------- parts

    def start(self, name, *command, env=None):
        process = Process(name, self.log / f"{name}.log", *command, env=env)
        self.processes.callback(process.stop)
        return process

    def _chain(self):
        self.rpc = f"http://127.0.0.1:{free_port()}"
        # fmt: the flags of the end-to-end tests' chain
        self.start(
            "anvil", "anvil", "--host", "127.0.0.1", "--port", self.rpc.rsplit(":", 1)[1], "--chain-id", CHAIN_ID, "--block-time", 2,
            "--hardfork", "cancun", "--slots-in-an-epoch", 1, "--gas-limit", 420000000, "--block-base-fee-per-gas", 12500000000, "--silent",
        )
        wait_for("the chain", lambda: Chain(self.rpc).chain_id() == CHAIN_ID, 30)
        admin = STATE / "admin.key"
        admin.touch(mode=0o600)
        admin.write_text(ACCOUNTS["admin"][1] + "\n")
        answer = run(
            binary("kubectl-grid"), "contract", "deploy", "--rpc-url", self.rpc, "--chain-id", CHAIN_ID, "--admin-key-file", admin,
            "--epoch-seconds", 3600, "--window-seconds", 600, "--reporter", ACCOUNTS["reporter"][0], "--fund-xdc", 1000, "-o", "json",
        )
        self.contract = json.loads(answer)["contract"]

    def _gateway(self):
        self.token = STATE / "gateway.token"
        self.token.touch(mode=0o600)
        self.token.write_text("bench-" + os.urandom(16).hex())
        self.p2p, internal = free_port(), f"127.0.0.1:{free_port()}"
        self.gateway_url = f"http://{internal}"
        self.gateway = self.start(
            "gateway", binary("grid-gateway"), "run", "--data-dir", STATE / "gateway", "--p2p-listen", f"/ip4/127.0.0.1/tcp/{self.p2p}",
            "--http-address", f"127.0.0.1:{free_port()}", "--internal-address", internal, "--internal-token-file", self.token,
        )
        wait_for("the gateway", lambda: answers(f"{self.gateway_url}/livez") or answers(f"{self.gateway_url}/metrics"), 30, every=0.1)

    def _accounts(self):
        account = {"kind": "ServiceAccount", "name": "xdc-grid-operator", "namespace": SYSTEM}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        self.apply(*[{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (SYSTEM, TEAM)])
        self.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "xdc-grid-operator", "namespace": SYSTEM}},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "bench"}, "roleRef": role, "subjects": [account]},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reporter", "namespace": SYSTEM}, "stringData": {"key": ACCOUNTS["reporter"][1]}},
        )
        token = self.kubectl("-n", SYSTEM, "create", "token", "xdc-grid-operator", "--duration", "24h").strip()
        text = self.kubeconfig.read_text()
        text = re.sub(r"user: \{client-certificate-data.*\}", f'user: {{token: "{token}"}}', text)
        self.operator_kubeconfig = STATE / "operator.kubeconfig"
        self.operator_kubeconfig.touch(mode=0o600)
        self.operator_kubeconfig.write_text(text)

    def _model_server(self):
        port = free_port()
        self.model_url = f"http://127.0.0.1:{port}/{MODEL_FILE.name}"
        self.start("models", sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", MODEL_FILE.parent)
        wait_for("the model server", lambda: answers(f"http://127.0.0.1:{port}/"), 15)

    def _network(self):
        chain = {
            "chainID": CHAIN_ID, "rpcEndpoints": [self.rpc], "contract": self.contract, "reporterSecretRef": {"name": "reporter", "key": "key"},
        }
        spec = {
            "chain": chain, "libp2p": {"externalAddresses": [f"/ip4/127.0.0.1/tcp/{self.p2p}"]},
            # Nothing is reported: epochs are another subject.
            "rewards": {"dryRun": True, "budgetPerEpochWei": "1"}, "verification": {"samplePercent": 0},
        }
        self.apply(grid("GridNetwork", NETWORK, spec), grid("GridModel", MODEL, {"source": {"url": self.model_url}, "sha256": MODEL_SHA256}))
        self.wait_condition("gridnetwork", NETWORK, "Ready")
        # Not Ready: that takes a worker.
        self.wait_condition("gridmodel", MODEL, "Resolved")

    # -------------------------------------------------------------------------------------------- the operator

    def start_operator(self):
        """Starts the operator and returns at once."""
        self.operator_http = f"127.0.0.1:{free_port()}"
        self.operator = self.start(
            "operator", binary("grid-operator"), "run", "--namespace", SYSTEM, "--gateway-url", self.gateway_url, "--gateway-token-file", self.token,
            "--worker-image", "localhost/xdc-grid:bench", "--local-jobs", "--http-address", self.operator_http, "--job-denied-networks", "none",
            env={"KUBECONFIG": str(self.operator_kubeconfig)} | _tuning(),
        )

    def stop_operator(self):
        """Ends it as a rollout does: it gives its lease back."""
        self.operator.stop(signal.SIGTERM)

    def reconciles(self):
        """Reconciles of the running operator by kind, whatever their outcome."""
        counts = {}
        try:
            text = get(f"http://{self.operator_http}/metrics", timeout=2)
        except OSError:
            return counts
        for line in text.splitlines():
            if line.startswith("grid_operator_reconciles_total"):
                kind = re.search(r'kind="([^"]+)"', line)[1]
                counts[kind] = counts.get(kind, 0) + float(line.split()[-1])
        return counts

    def cpu(self):
        """Processor time so far by process."""
        return {"operator": self.operator.cpu(), "gateway": self.gateway.cpu()} | {
            name: cpu_seconds(pid) for name, pid in self._plane_pids().items()
        }

    def _plane_pids(self):
        pids = {}
        for line in run("ps", "-eo", "pid=,args=").splitlines():
            pid, _, args = line.strip().partition(" ")
            for name in ("etcd", "kube-apiserver", "kube-controller-manager"):
                if f" {name} " in args and (str(STATE) in args):
                    pids[name] = int(pid)
        return pids

    # -------------------------------------------------------------------------------------------- objects

    def kubectl(self, *words, **options):
        return run("kubectl", "--kubeconfig", self.kubeconfig, *words, **options)

    def apply(self, *objects):
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=document)

    def get(self, kind, name, namespace=None):
        where = ["-n", namespace] if namespace else []
        return json.loads(self.kubectl("get", kind, name, *where, "-o", "json"))

    def wait_condition(self, kind, name, wanted, namespace=None, timeout=120, every=0.2):
        where = ["-n", namespace] if namespace else []
        self.kubectl(*where, "wait", f"--for=condition={wanted}", f"{kind}/{name}", f"--timeout={timeout}s", timeout=timeout + 30)

    def load(self, path, template, count, first=0, status=None, watch=None, clients=16, timeout=120, **flags):
        """Runs the load generator; its answer as a dictionary. See tests/bench/load."""
        files = []
        for name, body in (("template", template), ("status", status)):
            if body is not None:
                self.made += 1
                file = STATE / f"{name}-{self.made}.json"
                file.write_text(json.dumps(body))
                files += [f"--{name}", file]
        pki = STATE / "pki"
        where = ["--server", self.server, "--ca", pki / "ca.crt", "--cert", pki / "admin.crt", "--key", pki / "admin.key"]
        watched = ["--watch", watch] if watch else []
        more = [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", value)]
        answer = run(
            self.load_program, *where, "--path", path, *files, "--count", count, "--from", first, "--clients", clients,
            "--timeout", f"{timeout}s", *watched, *more, timeout=timeout + 60,
        )
        return json.loads(answer)

    def quiet(self, seconds=4, timeout=120, name=None):
        """Waits until the operator has written nothing but leases for so long; with a name, nothing about that job."""
        deadline = time.monotonic() + timeout
        mark, since = self.audit.mark(), time.monotonic()
        while time.monotonic() - since < seconds:
            if time.monotonic() > deadline:
                say(f"the operator still writes after {timeout} s")
                return
            time.sleep(0.25)
            if self.written(mark, name):
                mark, since = self.audit.mark(), time.monotonic()

    def written(self, mark, name=None):
        """How often the operator wrote since `mark`; with a name, about that job."""
        counts = self.audit.writes(mark)
        parts = [counts] if name is None else of_job(counts, TEAM, name)
        return sum(sum(part.values()) for part in parts)


def _tuning():
    """Environment of the operator that a person wants to try, such as BENCH_OPERATOR_ENV='GRID_CONCURRENCY=16'."""
    return dict(pair.split("=", 1) for pair in os.environ.get("BENCH_OPERATOR_ENV", "").split())


def grid(kind, name, spec, namespace=None):
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "xdcgrid.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def job(name, target="Grid", prompts="Say a word.", tokens=1):
    """An InferenceJob that asks for `tokens` a prompt."""
    workload = {
        "modelRef": {"name": MODEL}, "endpoint": "/v1/completions", "input": {"format": "Lines", "inline": prompts},
        "generation": {"maxTokens": tokens, "temperature": "0", "seed": 7}, "output": {"configMap": {"name": f"{name}-results"}},
    }
    return grid("InferenceJob", name, {"workload": workload, "placement": {"target": target}}, TEAM)


def path(resource, namespace=TEAM):
    """Where objects of a resource are, such as `batch/v1/jobs`."""
    group, _, plural = resource.rpartition("/")
    root = "/api/v1" if group == "v1" else f"/apis/{group}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def say(text):
    """Progress goes to stderr, tables to stdout."""
    print(f"▶ {text}", file=sys.stderr, flush=True)
