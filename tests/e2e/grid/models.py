"""Models from elsewhere than a URL, on the running cluster after the story: a volume that the gateway mounts, and the nodes of the grid."""

import hashlib
import json
import pathlib
import tarfile

from . import embeddings, faults, kube, story
from .shell import ROOT, run, wait_for

CLAIM = "model-files"
NAME = "from-a-volume"
FILE = "encoders/minilm.tar"
JOB = "embed-here"


def volume(claim):
    """The folder of this machine that a claim is bound to."""
    name = wait_for(f"claim {claim} to be bound", lambda: kube.get("pvc", claim, kube.SYSTEM)["spec"].get("volumeName"), 180)
    return pathlib.Path(kube.get("pv", name)["spec"]["hostPath"]["path"])


def put_another_encoder(path):
    """The encoder with another date in its tar, so that no other test has had the gateway fetch it. Its sha256."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(embeddings.FILE) as original, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as copy:
        for member in original:
            member.mtime = 1
            copy.addfile(member, original.extractfile(member))
    # The gateway runs as a user of its own.
    path.chmod(0o644)
    path.parent.chmod(0o755)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source(place):
    kube.kubectl("patch", "gridmodel", NAME, "--type=json", "-p", json.dumps([{"op": "replace", "path": "/spec/source", "value": place}]))


def reason():
    return (kube.condition(kube.get("gridmodel", NAME), "Resolved") or {}).get("reason")


def serve_on(node, *models):
    kube.kubectl("patch", "gridnode", node, "--type=merge", "-p", json.dumps({"spec": {"models": list(models)}}))


def test_a_model_on_a_volume_serves_local_jobs_and_comes_back_from_the_nodes_when_the_gateway_loses_it():
    kube.apply({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM, "namespace": kube.SYSTEM},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    })
    sha256 = put_another_encoder(volume(CLAIM) / FILE)
    place = {"pvc": {"claimName": CLAIM, "path": FILE}}
    kube.apply(kube.manifest("GridModel", NAME, {"source": place, "sha256": sha256, "format": "Safetensors"}))
    wait_for("ModelVolumeMissing", lambda: reason() == "ModelVolumeMissing", 180)
    # As the message of the condition says.
    run("helm", "--kubeconfig", kube.KUBECONFIG, "upgrade", "xdc-grid", ROOT / "charts" / "xdc-grid", "--namespace", kube.SYSTEM,
        "--reuse-values", "--set", f"gateway.modelClaims={{{CLAIM}}}", "--wait", "--timeout", "300s")
    kube.wait_condition("gridmodel", NAME, "Resolved", timeout=180)

    kube.apply(kube.manifest("InferenceJob", JOB, {
        "workload": {
            "modelRef": {"name": NAME}, "endpoint": "/v1/embeddings",
            "input": {"format": "Lines", "inline": "\n".join(embeddings.LINES)}, "output": {"configMap": {"name": f"{JOB}-results"}},
        },
        "placement": {"target": "Local"},
    }, namespace=story.TEAM))
    job = story.watch_job(JOB)
    assert job["status"]["requests"] == {"total": 3, "completed": 3, "failed": 0}, job["status"]["requests"]
    child, = faults.children(job["metadata"]["uid"])
    args = child["spec"]["template"]["spec"]["containers"][0]["args"]
    assert any(f"-api.{kube.SYSTEM}.svc:8080/grid/v1/models/{sha256}/file" in word for word in args), args

    node = story.MANAGED[0]
    serve_on(node, story.MODEL, NAME)
    kube.wait_condition("gridmodel", NAME, "Ready", timeout=180)
    blob = volume("data-xdc-grid-gateway-0") / "blobs" / sha256
    blob.unlink()
    source({"blob": {}})
    kube.kubectl("-n", kube.SYSTEM, "delete", "pod", "xdc-grid-gateway-0", "--timeout=180s")
    wait_for("the node to give it back", blob.exists, 180)
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == sha256
    kube.wait_condition("gridmodel", NAME, "Ready", timeout=180)
    serve_on(node, story.MODEL)
    kube.kubectl("delete", "gridmodel", NAME, "--timeout=180s")
    wait_for("the gateway to let go of it", lambda: not blob.exists(), 180)


def test_a_chat_template_of_the_grid_model_makes_the_prompts_and_audits_agree():
    text = "The capital of France is"
    generation = {"maxTokens": 16, "temperature": "0"}

    def answers(name, endpoint):
        kube.apply(kube.manifest("InferenceJob", name, {
            "workload": {
                "modelRef": {"name": story.MODEL}, "endpoint": endpoint, "input": {"format": "Lines", "inline": text},
                "generation": generation, "output": {"configMap": {"name": f"{name}-results"}},
            },
            "verification": {"samplePercent": 100},
        }, namespace=story.TEAM))
        job = story.watch_job(name)
        assert kube.condition(job, "Verified")["status"] == "True", kube.condition(job, "Verified")
        line, = story.result_lines(name)
        return line["response"]["body"]["choices"][0]

    def tokenizer(value):
        kube.kubectl("patch", "gridmodel", story.MODEL, "--type=merge", "-p", json.dumps({"spec": {"tokenizer": value}}))

    own = answers("own-template", "/v1/chat/completions")["message"]["content"]
    tokenizer({"chatTemplate": "{{ messages[0].content }}"})
    try:
        replaced = answers("another-template", "/v1/chat/completions")["message"]["content"]
    finally:
        tokenizer(None)
    completed = answers("completed", "/v1/completions")["text"]
    assert replaced == completed != own, (own, replaced, completed)


ALL = [
    test_a_model_on_a_volume_serves_local_jobs_and_comes_back_from_the_nodes_when_the_gateway_loses_it,
    test_a_chat_template_of_the_grid_model_makes_the_prompts_and_audits_agree,
]
