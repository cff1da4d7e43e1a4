"""One line when a step starts, one when it is done, and on failure what failed and where to look further."""

import contextlib
import subprocess
import sys
import time

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
