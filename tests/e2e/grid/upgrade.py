"""`helm upgrade` to another version and `helm rollback` while jobs run, as docs/user-guide/admin.md says."""

import contextlib
import os
import pathlib
import re
import signal
import sqlite3
import subprocess

from . import environment as env
from . import faults, kube, story
from .shell import ROOT, STATE, run, wait_for

NEXT_TAG = "next"
# Each way has a job of its own in its middle when it begins, so that no speed of a machine decides what is tested.
LENGTH = 100
PROMPTS = "\n".join(f"Tell me a short story about the number {n}." for n in range(1, LENGTH + 1))
LOCAL_PROMPTS = "\n".join(faults.LOCAL.splitlines() * 3)
OVER_UPGRADE, OVER_ROLLBACK, LOCAL_JOB = "over-upgrade", "over-rollback", "local-over-upgrade"


def helm(*words):
    return run("helm", "--kubeconfig", kube.KUBECONFIG, *words, "--namespace", kube.SYSTEM, "--wait", "--timeout", "300s")


def image(tag):
    return f"{env.IMAGE.rsplit(':', 1)[0]}:{tag}"


def images_of(component):
    pods = kube.get_all("pods", kube.SYSTEM, f"app.kubernetes.io/component={component}")
    return {pod["spec"]["containers"][0]["image"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def worker_image(node):
    return kube.get("pod", f"worker-{node}-0", kube.SYSTEM)["spec"]["containers"][0]["image"]


def assert_version(tag):
    """Operator and gateway are of that version once Helm says that it is done."""
    found = images_of("operator") | images_of("gateway")
    assert found == {image(tag)}, f"operator and gateway run {found}"


def identities():
    """What no upgrade may make anew, by kind and name: its uid."""
    things = [thing for thing in kube.get_all("gridnetworks,gridmodels,gridnodes") if "deletionTimestamp" not in thing["metadata"]]
    found = {f"{thing['kind']}/{thing['metadata']['name']}": thing["metadata"]["uid"] for thing in things}
    for crd in kube.get_all("crd", selector="app.kubernetes.io/part-of=xdc-grid"):
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", crd["metadata"]
        found[f"CRD/{crd['metadata']['name']}"] = crd["metadata"]["uid"]
    assert len([name for name in found if name.startswith("CRD/")]) == 6, found
    return found


def ledger(query, *values):
    """Rows of the gateway's ledger, read beside the gateway: its volume is a folder of this machine."""
    volume = kube.get("pvc", "data-xdc-grid-gateway-0", kube.SYSTEM)["spec"]["volumeName"]
    folder = pathlib.Path(kube.get("pv", volume)["spec"]["hostPath"]["path"])
    connection = sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True, timeout=60)
    with contextlib.closing(connection):
        return connection.execute(query, values).fetchall()


def receipts():
    return {row[0] for row in ledger("SELECT hash FROM receipts")}


def assert_paid_once(uid):
    """Of however many answers to a request one is worth something, and every request of the job has one."""
    # Of this job: what a cheat answered in another one was accepted when it came, and is answered again by somebody else.
    twice = ledger(
        "SELECT hex(c.request), COUNT(*) FROM receipts c JOIN requests r ON r.id = c.request"
        " WHERE c.standing = 'Accepted' AND r.job = ? GROUP BY c.request HAVING COUNT(*) > 1", uid)
    assert not twice, f"more than one receipt counts: {twice}"
    ((won,),) = ledger("SELECT COUNT(*) FROM wins w JOIN requests r ON r.id = w.request WHERE r.job = ?", uid)
    assert won == LENGTH, f"{won} of {LENGTH} requests have a receipt"
    # Signatures, sums and everything that is settled.
    kube.kubectl("-n", kube.SYSTEM, "exec", "xdc-grid-gateway-0", "--", "/usr/local/bin/grid-gateway", "fsck", "--data-dir=/var/lib/xdc-grid")


@contextlib.contextmanager
def followed_workers():
    """Follows the logs of the managed workers from pod to pod; gives a function that tells what each said when it was ended."""
    logs = {name: STATE / "log" / f"upgrade-{name}.log" for name in story.MANAGED}
    followers = []
    try:
        for name, path in logs.items():
            path.unlink(missing_ok=True)
            follow = f"kubectl --kubeconfig {kube.KUBECONFIG} -n {kube.SYSTEM} logs -f worker-{name}-0 --tail=1"
            # One after the other: each ends with its pod.
            followers.append(subprocess.Popen(
                ["bash", "-c", f"while :; do {follow} >>{path} 2>/dev/null; sleep 0.2; done"], stdin=subprocess.DEVNULL, start_new_session=True))
        yield lambda: {name: running_when_ended(path) for name, path in logs.items()}
    finally:
        for follower in followers:
            os.killpg(follower.pid, signal.SIGKILL)
            follower.wait()


def running_when_ended(log):
    """How many requests a worker had each time that it was told to end; it may be told twice of one end."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
    return [int(count) for count in re.findall(r"\bdraining\b.*?\brunning\D{1,4}(\d+)", plain)]


@contextlib.contextmanager
def upgraded():
    """The release of the next version; rolled back at the end, whatever happened."""
    try:
        helm("upgrade", "xdc-grid", ROOT / "charts" / "xdc-grid", "--reuse-values", "--set", f"image.tag={NEXT_TAG}")
        yield
    finally:
        helm("rollback", "xdc-grid")


def start_grid_job(name):
    """A Grid job in its middle; returns its uid."""
    # Of a run before this one.
    kube.kubectl("-n", story.TEAM, "delete", "inferencejob", name, "--ignore-not-found", "--timeout=300s")
    story.create_job(name, PROMPTS)
    wait_for(f"{name} to be in its middle", lambda: 0 < faults.status(name)["requests"]["completed"] < LENGTH, 300, every=0.2)
    return kube.get("inferencejob", name, story.TEAM)["metadata"]["uid"]


def start_local_job():
    """A Local job with a pod that runs; returns its uid."""
    kube.kubectl("-n", story.TEAM, "delete", "inferencejob", LOCAL_JOB, "--ignore-not-found", "--timeout=300s")
    local = faults.local_job(LOCAL_JOB, LOCAL_PROMPTS)
    wait_for("the Local job to run", lambda: any(pod["status"]["phase"] == "Running" for pod in faults.children(local, "pods")), 300)
    return local


def assert_jobs_complete(child):
    """All jobs, each request once; the Local one by the Job that it had from the beginning."""
    local = story.watch_job(LOCAL_JOB)
    total = len(LOCAL_PROMPTS.splitlines())
    assert local["status"]["requests"] == {"total": total, "completed": total, "failed": 0}, local["status"]["requests"]
    assert [job["metadata"]["uid"] for job in faults.children(local["metadata"]["uid"])] == [child]
    for name in (OVER_UPGRADE, OVER_ROLLBACK):
        faults.assert_each_request_counted_once(name, LENGTH)


def test_an_upgrade_and_the_way_back_under_running_jobs_lose_nothing_and_pay_nothing_twice():
    tag = env.IMAGE.rsplit(":", 1)[1]
    env.cluster("tag", env.IMAGE, image(NEXT_TAG))
    before = identities()
    with followed_workers() as ended:
        (child,) = [job["metadata"]["uid"] for job in faults.children(start_local_job())]
        jobs = [start_grid_job(OVER_UPGRADE)]
        earned = receipts()
        with upgraded():
            assert_version(NEXT_TAG)
            assert identities() == before, "the upgrade made something anew"
            wait_for("a worker to be replaced", lambda: any(worker_image(name) == image(NEXT_TAG) for name in story.MANAGED), 300)
            jobs.append(start_grid_job(OVER_ROLLBACK))
        assert_version(tag)
        assert_jobs_complete(child)
        for name in story.MANAGED:
            wait_for(f"the worker of {name} to be of the old version again", lambda name=name: worker_image(name) == image(tag), 300)
        running = ended()
    assert any(running.values()), "no worker was seen to end"
    assert not any(count for counts in running.values() for count in counts), f"ended with requests that ran: {running}"
    for name in (*story.MANAGED, story.EXTERNAL):
        kube.wait_condition("gridnode", name, "Ready", timeout=300)
    assert identities() == before, "something was made anew"
    assert earned <= receipts(), "receipts were lost"
    for uid in jobs:
        assert_paid_once(uid)


ALL = [value for name, value in list(globals().items()) if name.startswith("test_")]
