"""Background processes of a benchmark: they end with it, however it ends."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import urllib.request

PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, timeout=5, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=timeout) as answer:
        return answer.read().decode()


def answers(url):
    try:
        get(url, timeout=1)
        return True
    except OSError:
        return False


class Process:
    def __init__(self, name, log, *command, env=None):
        self.name = name
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self.child = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                env=os.environ | (env or {}), start_new_session=True, preexec_fn=_die_with_parent,
            )

    def stop(self, sign=signal.SIGTERM, patience=20):
        if self.child.poll() is None:
            self.child.send_signal(sign)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(5)

    def alive(self):
        return self.child.poll() is None

    def cpu(self):
        return cpu_seconds(self.child.pid)

    def memory_mib(self, line="VmRSS"):
        return memory_mib(self.child.pid, line)


def _die_with_parent():
    # Even a benchmark that is killed leaves nothing running.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def memory_mib(pid, line="VmRSS"):
    for text in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(f"{line}:"):
            return int(text.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid):
    """User and system time that a process has taken."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
