"""Tables in markdown, as docs/benchmarks.md has them."""

import os
import pathlib
import statistics


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} × {line.split(':', 1)[1].strip()}"
    return f"{os.cpu_count()} cores"


def table(title):
    print(f"\n### {title}\n\n| what | n | median | spread | unit |\n|---|---|---|---|---|", flush=True)


def row(name, values, unit):
    """n, median and spread (lowest to highest) of one measured thing."""
    values = sorted(values)
    if not values:
        print(f"| {name} | 0 | not measured | | {unit} |", flush=True)
        return
    print(f"| {name} | {len(values)} | {statistics.median(values):.4g} | {values[0]:.4g} – {values[-1]:.4g} | {unit} |", flush=True)


def ratio(name, values, others):
    """What was measured in turns: the ratio of each pair."""
    row(name, [value / other for value, other in zip(values, others)], "×")


def note(text):
    """A sentence below a table."""
    print(f"\n{text}", flush=True)
