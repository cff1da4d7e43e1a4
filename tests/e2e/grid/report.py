"""One line when a step starts, one when it is done, and on failure what failed and where to look further."""

import collections
import contextlib
import subprocess
import sys
import time

from .chain import xdc

STARTED = time.monotonic()


class StepFailed(Exception):
    """A step did not reach its end; the message is for a person."""


def say(line=""):
    print(line, flush=True)


@contextlib.contextmanager
def step(title, look_further=(), logs=()):
    """Announces `title`; when the body fails, shows the commands in `logs` (their last lines) and `look_further`."""
    say(f"▶ {title}")
    begun = time.monotonic()
    try:
        yield
    except (StepFailed, AssertionError, subprocess.CalledProcessError, OSError) as error:
        say(f"✘ {title} failed after {time.monotonic() - begun:.1f} s: {describe(error)}")
        for command in logs:
            show_tail(command)
        for command in look_further:
            say(f"  look further: {command}")
        raise StepFailed(title) from error
    say(f"✔ {title} ({time.monotonic() - begun:.1f} s)")


def work_by_node(lines):
    """Answers, prompt and output tokens by the node that each line of results.jsonl names."""
    work = collections.defaultdict(collections.Counter)
    for line in lines:
        body = line["response"]["body"]
        work[body["xdc_grid"]["node"]].update(answers=1, prompt=body["usage"]["prompt_tokens"], output=body["usage"]["completion_tokens"])
    return work


def earnings_table(work, rewards):
    """Lines of a table: what each node did for the job, and what it earned and can claim over all its work. Wei in, XDC out."""
    total = sum(int(row["earnedWei"]) for row in rewards.values()) or 1
    rows = [("node", "answers", "prompt", "output", "earned", "share", "claimable")]
    for name in sorted(rewards | work):
        done, row = work.get(name, {}), rewards.get(name, {"earnedWei": 0, "claimableWei": 0})
        earned, claimable = int(row["earnedWei"]), int(row["claimableWei"])
        rows.append((name, done.get("answers", 0), done.get("prompt", 0), done.get("output", 0), xdc(earned), f"{earned / total:.1%}", xdc(claimable)))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    return [f"{row[0]:{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:])) for row in rows]


def describe(error):
    if isinstance(error, subprocess.CalledProcessError):
        tail = (error.stderr or error.stdout or "").strip().splitlines()[-15:]
        return f"`{' '.join(map(str, error.cmd))}` exited with {error.returncode}\n  " + "\n  ".join(tail)
    return str(error) or type(error).__name__


def show_tail(command, lines=25):
    """Runs a diagnostic command; its own failure is only shown, never raised."""
    say(f"  $ {command}")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=False)
    for line in (done.stdout + done.stderr).strip().splitlines()[-lines:]:
        say(f"    {line}")


def elapsed():
    return time.monotonic() - STARTED


def die(message):
    say(message)
    sys.exit(1)
