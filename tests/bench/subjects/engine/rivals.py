"""Ours, llama.cpp and mistral.rs, each asked for the same: how many tokens a second it reads and writes with a file."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import tempfile

from grid.environment import MODEL_FILE, binary, target
from grid.shell import CACHE, ROOT, run

PAIRS = int(os.environ.get("BENCH_PAIRS", "5"))
LIBRARIES = CACHE / "llama"


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    file: pathlib.Path

    @property
    def mib(self):
        return self.file.stat().st_size / 2**20


SMOLLM = Model("SmolLM2-135M Q4_1", MODEL_FILE)
GEMMA = Model("Gemma 3 270M Q4_K_M", CACHE / "models" / "gemma-3-270m-q4_k_m.gguf")
MODELS = (SMOLLM, GEMMA)
# 1.1 GB: fetched by the subject that asks for it.
QWEN = Model("Qwen2.5-Coder 1.5B Q4_K_M", CACHE / "models" / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf")


@dataclasses.dataclass(frozen=True)
class Speed:
    """Tokens a second."""

    prefill: float
    decode: float
    together: float = 0.0
    replay: float = 0.0


def install(name):
    run(ROOT / "tests" / "tools" / "install", name)


def in_turns(*measures, pairs=PAIRS):
    """Calls each in turn, `pairs` times over; for each the list of what it returned."""
    rounds = [[measure() for measure in measures] for _ in range(pairs)]
    return [list(values) for values in zip(*rounds)]


def ours(model, threads, prompt, output, sequences=1, kv_type="f32"):
    shape = ["--prompt-tokens", prompt, "--output-tokens", output, "--sequences", sequences, "--kv-type", kv_type]
    report = json.loads(run(binary("grid-worker"), "bench", model.file, "--threads", threads, "--runs", 1, "-o", "json", *shape))
    return Speed(*[report[part]["median"] for part in ("prefill", "decode", "decodeTogether", "replay")])


def llama(model, threads, prompt, output, sequences=1):
    """llama.cpp through the program that the engine's tests ask too; `together` and `decode` are all sequences' tokens."""
    line = run(_oracle(), LIBRARIES, model.file, "bench", threads, prompt, output, sequences)
    prefill, decode = map(float, line.split())
    return Speed(prefill, decode, decode)


def _oracle():
    program = target() / "bench-llama-oracle"
    source = ROOT / "tests" / "interop" / "llama" / "oracle.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        run("cc", "-O2", "-o", program, source, "-ldl", "-lm")
    return program


class Mistral:
    """mistral.rs with a model, as a process that answers a line with a line: it takes seconds to load."""

    def __init__(self, model, threads):
        install("mistralrs")
        command = [CACHE / "mistralrs" / "bin" / "python", ROOT / "tests" / "interop" / "mistralrs" / "rival.py", model.file]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads]),
        )
        self.version = self._read()["version"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def speed(self, words, output):
        self.process.stdin.write(json.dumps({"words": words, "output": output}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        return Speed(answer["prefill"], answer["decode"]), answer["prompt"]

    def _read(self):
        """The next line that is an object: the library writes to standard output too."""
        for line in self.process.stdout:
            if re.match(r"\s*\{", line):
                return json.loads(line)
        self.log.seek(0)
        raise RuntimeError(f"mistral.rs ended: {self.log.read()[-1000:]}")
