"""What structured output costs: the mask before each token, and the vocabulary in memory."""

import json
import re

from grid.shell import run

from ..table import row, table
from .rivals import MODELS

MEASURE = ("cargo", "test", "--quiet", "--locked", "--package", "xdc-grid-inference", "--lib", "cost_of_masks", "--", "--ignored", "--nocapture")


def masks():
    """Time of a mask of structured output, and memory of the vocabulary as a trie, for both models."""
    for model in MODELS:
        table(f"structured output with {model.name}")
        told = run("env", f"MODEL={model.file}", *MEASURE, timeout=1200)
        found = json.loads(re.search(r"^cost of masks (\{.*\})$", told, re.MULTILINE)[1])
        row(f"vocabulary of {found['words']} words as a trie, kept", [found["kept_bytes"] / 2**20], "MiB")
        row("… most while it is made", [found["peak_bytes"] / 2**20], "MiB")
        row("… time to make it, once a model", [found["made_ms"]], "ms")
        for form in found["forms"]:
            row(f"{form['name']}: compile", [form["compile_ms"]], "ms")
            row(f"{form['name']}: mask before a token", form["masks_us"], "µs")
            row(f"{form['name']}: memory of one answer's state at its end", [form["kept_bytes"] / 2**20], "MiB")
