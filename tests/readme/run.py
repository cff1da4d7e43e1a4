#!/usr/bin/env python3
"""Runs commands of README.md and docs/user-guide/ as they stand, on the local grid: tests/readme/run.py [TAG…]

Needs a grid that `make up` or `make demo` brought up. A block is tagged by the comment above it. What a reader has to replace by his own is
replaced by that of the local grid (endpoints, contract, model URL, names); nothing else is. Without TAG: all blocks in the order of a
reader, README.md first, but those that make or remove the grid itself. Ends with `N passed, N failed`."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = ROOT / ".cluster"
PAGES = ["README.md", "docs/user-guide/admin.md", "docs/user-guide/jobs.md", "docs/user-guide/machine-owner.md"]
# Of README.md, in a reader's order. `demo` and `test` are what runs this; `contract` has run before the network could be made.
README_TAGS = ["look-around", "openai", "install", "contract", "grid", "job", "keygen", "external-node", "register", "run-worker", "claim"]
PAYOUT = "0x00000000000000000000000000000000000dddd4"
MINUTES = 6


def blocks():
    """Pages and commands by tag, in the order of the pages."""
    found = {}
    for page in PAGES:
        for tag, command in re.findall(r"<!-- test: ([\w-]+) -->\n```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            assert tag not in found, f"two blocks are tagged {tag}"
            found[tag] = (page, command)
    return found


def environment():
    """What .cluster/env exports."""
    found = dict(os.environ)
    for line in (STATE / "env").read_text().splitlines():
        name, value = re.fullmatch(r"export (\w+)='(.*)'", line).groups()
        found[name] = value
    return found | {"PAYOUT": PAYOUT}


def run(command, env, folder, timeout=60 * MINUTES):
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def kubectl(env, *words):
    return subprocess.run(["kubectl", *words], env=env, capture_output=True, text=True, check=True).stdout


class Reader:
    """A reader's folder: the repository's charts, and examples with his own values filled in."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.env = environment()
        network = json.loads(kubectl(self.env, "get", "gridnetworks", "-o", "json"))["items"][0]
        self.network = network["metadata"]["name"]
        self.outside = network["spec"].get("libp2p", {}).get("externalAddresses", [])
        self.reporter = network["spec"]["chain"]["reporterSecretRef"]
        (self.folder / "charts").symlink_to(ROOT / "charts")
        (self.folder / ".cluster").symlink_to(STATE)
        shutil.copytree(ROOT / "docs" / "examples", self.folder / "docs" / "examples")
        for path in (self.folder / "docs" / "examples").glob("*.yaml"):
            path.write_text(self.own(path.read_text()))
        for name, account in (("admin.key", "admin"), ("wallet.key", "anyone"), ("reporter.key", "reporter")):
            shutil.copy(STATE / "keys" / account, self.folder / name)

    def own(self, text):
        """The reader's values in place of the examples'."""
        for pattern, value in (
            (r"https://erpc\.apothem\.network", self.env["RPC_URL"]),
            (r'"0x5FbDB2315678afecb367f032d93F642f64180aa3"', f'"{self.env["CONTRACT"]}"'),
            (r"https://models\.example\.org/\S+", self.env["MODEL_URL"]),
            (r"- /dns4/grid\.example\.org/tcp/4001", f"- {self.outside[0]}" if self.outside else "- /ip4/127.0.0.1/tcp/4001"),
            (r"(kind: GridNetwork\nmetadata:\n  name: )main", rf"\g<1>{self.network}"),
            (r"(networkRef:\n    name: )main", rf"\g<1>{self.network}"),
            (r"gridnetwork/main|gridnetwork main", lambda found: found.group().replace("main", self.network)),
            (r"(reporterSecretRef:\n      name: reporter)", rf"\g<1>\n      key: {self.reporter.get('key', 'privateKey')}"),
        ):
            text = re.sub(pattern, value, text)
        return text

    def follow(self, tag, command):
        """Runs a block; returns what went wrong, or nothing."""
        command = self.own(command)
        if tag == "install":
            command = command.replace("--wait", f"--reuse-values --wait --values {ROOT}/tests/e2e/values.yaml")
        if tag == "contract":
            # The Secret is there already: the grid runs.
            command = command.replace("create secret generic reporter", "create secret generic readme-reporter --dry-run=client")
            command = command.replace("--fund-xdc 10", "--fund-xdc 10 --epoch-seconds 60 --window-seconds 10")
        if tag == "external-node":
            self.name_peer()
        if tag == "run-worker":
            return self.run_worker(command)
        if tag == "claim":
            self.wait_claimable("cpu-1")
        done = run(command, self.env, self.folder)
        return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"

    def name_peer(self):
        """What the admin does with the peer id that keygen printed."""
        identity = run("grid-worker id --key-file node.key", self.env, self.folder).stdout
        peer = re.search(r"16Uiu2HA\w+", identity).group()
        path = self.folder / "docs" / "examples" / "node-external.yaml"
        path.write_text(re.sub(r"peerID: \S+", f"peerID: {peer}", path.read_text()))

    def run_worker(self, command):
        status = json.loads(kubectl(self.env, "get", "gridnetwork", self.network, "-o", "json"))["status"]
        env = self.env | {"GATEWAY": status["gateways"][0]["addresses"][-1]}
        with (self.folder / "worker.log").open("w") as log:
            worker = subprocess.Popen(["bash", "-c", "exec " + command.strip()], cwd=self.folder, env=env, stdout=log, stderr=log)
        try:
            kubectl(self.env, "wait", "--for=condition=Ready", "gridnode/home-1", f"--timeout={MINUTES}m")
        except subprocess.CalledProcessError as error:
            return f"{error.stderr}\n{(self.folder / 'worker.log').read_text()[-3000:]}"
        finally:
            worker.terminate()
            worker.wait(timeout=30)
        return None

    def wait_claimable(self, node):
        deadline = time.monotonic() + 60 * MINUTES
        while time.monotonic() < deadline:
            done = run(f"kubectl grid rewards show {node} -o json", self.env, self.folder)
            if done.returncode == 0 and int(json.loads(done.stdout)[0]["claimableWei"]) > 0:
                return
            time.sleep(2)

    def leave(self):
        """Takes away what the blocks made, so that the next tests find the grid of before."""
        for what in ("inferencejob/hello", "inferencejob/capitals", "gridnode/home-1", "gridnode/cpu-1", "configmap/hello-results", "configmap/capitals-results"):
            run(f"kubectl delete {what} -n default --ignore-not-found --wait=false", self.env, self.folder)


def main():
    known = blocks()
    wanted = sys.argv[1:] or README_TAGS + [tag for tag, (page, _) in known.items() if page != "README.md"]
    unknown = [tag for tag in wanted if tag not in known]
    if unknown:
        sys.exit(f"there is no block {', '.join(unknown)}; there are {', '.join(known)}")
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(folder)
        for tag in wanted:
            page, command = known[tag]
            begun = time.monotonic()
            fault = reader.follow(tag, command)
            passed, failed = passed + (not fault), failed + bool(fault)
            print(f"{'FAILED' if fault else 'ok'} {page}: {tag} ({time.monotonic() - begun:.0f} s){': ' + fault if fault else ''}", flush=True)
        reader.leave()
    print(f"{passed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
