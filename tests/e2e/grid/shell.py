"""Commands, background processes (known by pid and start time) and waiting for a condition."""

import json
import os
import pathlib
import signal
import subprocess
import time

from .report import StepFailed

ROOT = pathlib.Path(__file__).resolve().parents[3]
STATE = ROOT / ".cluster"
CACHE = pathlib.Path(os.environ.get("XDC_GRID_CACHE", pathlib.Path.home() / ".cache" / "xdc-grid"))


def run(*command, check=True, stdin=None, timeout=600, env=None):
    """Runs a command to its end and returns its standard output."""
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=env
    )
    if check and done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, [str(part) for part in command], done.stdout, done.stderr)
    return done.stdout


def succeeds(*command, timeout=60):
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=timeout, check=False)
    return done.returncode == 0


def wait_for(what, condition, timeout=180, every=0.5):
    """Polls `condition` until it returns something true and returns that; its exceptions count as "not yet"."""
    deadline = time.monotonic() + timeout
    last = None
    while time.monotonic() < deadline:
        try:
            value = condition()
            if value:
                return value
            last = value
        except (subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError) as error:
            last = error
        time.sleep(every)
    raise StepFailed(f"waited {timeout} s for {what}; last seen: {last!r}")


def start_time(pid):
    """Start time of a process in clock ticks since boot: with the pid it names one process for good."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


class Daemon:
    """A background process whose pid and start time are kept in the state folder, so that a later run finds or ends it."""

    def __init__(self, name):
        self.name = name
        self.record = STATE / "run" / f"{name}.json"
        self.log = STATE / "log" / f"{name}.log"

    def alive(self):
        record = self._read()
        return bool(record) and start_time(record["pid"]) == record["start"]

    def start(self, *command, env=None):
        if self.alive():
            return
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env,
            )
        self.record.write_text(json.dumps({"pid": process.pid, "start": start_time(process.pid)}))

    def stop(self, sign=signal.SIGTERM, patience=8):
        """Ends exactly the process that `start` made, never a later one with the same pid."""
        record = self._read()
        if record and self.alive():
            os.kill(record["pid"], sign)
            deadline = time.monotonic() + patience
            while self.alive() and time.monotonic() < deadline:
                self._reap(record["pid"])
                time.sleep(0.1)
            if self.alive():
                os.kill(record["pid"], signal.SIGKILL)
            self._reap(record["pid"])
        self.record.unlink(missing_ok=True)

    @staticmethod
    def _reap(pid):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass

    def _read(self):
        try:
            return json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None


def running_daemons():
    return [Daemon(path.stem) for path in sorted((STATE / "run").glob("*.json"))]
