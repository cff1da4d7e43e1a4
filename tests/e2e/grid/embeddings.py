"""Embeddings on the running cluster after the story: a second model, a job, and the OpenAI client."""

import json

from . import environment as env
from . import kube, story
from .shell import CACHE, ROOT, run

ENCODER = "all-minilm-l6-v2"
FILE = env.MODEL_FILE.with_name(f"{ENCODER}.tar")
SHA256 = "f97ece71d081e351ac9f47ff51e68304f1c954b72c4c0e3834d97cafbef42c83"
JOB = "embed"
LINES = ["How do I reset my password?", "I forgot my login and want a new one.", "The soup needs more salt."]


def test_embeddings_of_a_job_and_of_the_openai_client():
    source = {"url": env.MODEL_URL.replace(env.MODEL_FILE.name, FILE.name)}
    kube.apply(kube.manifest("GridModel", ENCODER, {"source": source, "sha256": SHA256, "format": "Safetensors", "license": "Apache-2.0"}))
    kube.wait_condition("gridmodel", ENCODER, "Resolved", timeout=180)
    for name in story.MANAGED:
        kube.kubectl("patch", "gridnode", name, "--type=merge", "-p", json.dumps({"spec": {"models": [story.MODEL, ENCODER]}}))
    kube.wait_condition("gridmodel", ENCODER, "Ready", timeout=180)
    kube.apply(kube.manifest("InferenceJob", JOB, {
        "workload": {
            "modelRef": {"name": ENCODER}, "endpoint": "/v1/embeddings",
            "input": {"format": "Lines", "inline": "\n".join(LINES)}, "output": {"configMap": {"name": f"{JOB}-results"}},
        },
        "verification": {"samplePercent": 100},
    }, namespace=story.TEAM))
    job = story.watch_job(JOB)
    assert job["status"]["requests"] == {"total": 3, "completed": 3, "failed": 0}, job["status"]["requests"]
    assert kube.condition(job, "Verified")["status"] == "True", kube.condition(job, "Verified")
    data = kube.get("configmap", f"{JOB}-results", story.TEAM)["data"]
    bodies = {line["custom_id"]: line["response"]["body"] for line in map(json.loads, data["results.jsonl"].splitlines())}
    vectors = [bodies[f"line-{n}"]["data"][0]["embedding"] for n in (1, 2, 3)]
    assert all(len(vector) == 384 for vector in vectors), [len(vector) for vector in vectors]
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.2
    script = ROOT / "tests" / "e2e" / "openai_embeddings.py"
    run(CACHE / "openai" / "bin" / "python", script, env.GATEWAY_URL, ENCODER, LINES[0], json.dumps(vectors[0]))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))
