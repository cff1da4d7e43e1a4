"""`grid-worker serve` as a process, and clients that read its streams and only count."""

import json
import os
import pathlib
import re
import selectors
import socket
import tempfile
import time

from grid.environment import binary

from ..operator.process import Process, free_port

KV_MIB = 256
PROMPT = "Once upon a time there was a small village by a wide river, and"
PATIENCE = 120


class Server:
    """Serves one model. `before` is a command in front of it: what a program is started with to live in a control group."""

    def __init__(self, model, threads=None, sequences=4, before=()):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        log = pathlib.Path(self.folder.name) / "serve.log"
        chosen = ["--threads", threads] if threads else []
        self.begun = time.monotonic()
        self.process = Process(
            "serve", log, *before, binary("grid-worker"), "serve", model.file, "--listen", f"127.0.0.1:{self.port}", "--model-name", "m",
            "--kv-budget", f"{KV_MIB}Mi", "--max-sequences", sequences, *chosen,
        )
        self.log = log

    def __enter__(self):
        try:
            self.ready_after = self._ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.stop()
        self.folder.cleanup()

    def _ready(self):
        """Seconds from its start until it says that it is ready."""
        while time.monotonic() - self.begun < PATIENCE:
            if not self.process.alive():
                raise RuntimeError(f"grid-worker serve ended: {self.log.read_text()[-1000:]}")
            if self._status("/ready") == 200:
                return time.monotonic() - self.begun
            time.sleep(0.002)
        raise RuntimeError(f"not ready after {PATIENCE} s: {self.log.read_text()[-1000:]}")

    def _status(self, path):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
                return int(connection.recv(64).split()[1])
        except (OSError, ValueError, IndexError):
            return None

    def pid(self):
        return self.process.child.pid

    def cpu_of_threads(self):
        """Processor time of each of its threads so far, in seconds, to the nanosecond."""
        tasks = pathlib.Path(f"/proc/{self.pid()}/task").glob("*/schedstat")
        return {task.parent.name: int(task.read_text().split()[0]) / 1e9 for task in tasks}

    def read_mib(self):
        """What it has read from the disk itself, and not from the page cache."""
        lines = pathlib.Path(f"/proc/{self.pid()}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes")) / 2**20

    def streams(self, count, tokens):
        """Asks for `count` answers at once; tokens a second of all of them from when each has begun until the last ends."""
        return rate(self.port, [request(tokens, seed) for seed in range(count)])


def request(tokens, seed):
    """A streamed answer of up to `tokens`, always the same for a seed."""
    asked = {
        "model": "m", "prompt": PROMPT, "max_tokens": tokens, "temperature": 1, "seed": seed, "stream": True, "stream_options": {"include_usage": True},
    }
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


class Stream:
    """One answer as it arrives."""

    def __init__(self, port, text):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.sendall(text)
        self.socket.setblocking(False)
        self.times, self.heard = [], b""

    def read(self):
        """Takes what is there; False at its end."""
        data = self.socket.recv(1 << 16)
        self.times += [time.monotonic()] * data.count(b'"text"')
        self.heard += data
        return bool(data)

    def tokens(self):
        """What the server says that it wrote: a token that ends no character has no event of its own."""
        found = re.search(rb'"completion_tokens":\s*(\d+)', self.heard)
        if not found or len(self.times) < 2:
            raise RuntimeError(f"no answer: {self.heard[-500:]}")
        return int(found[1])


def rate(port, requests):
    """As `grid-worker bench` counts: from the moment when every answer has begun, the tokens that come later, a second."""
    streams = [Stream(port, text) for text in requests]
    with selectors.DefaultSelector() as reading:
        for stream in streams:
            reading.register(stream.socket, selectors.EVENT_READ, stream)
        while reading.get_map():
            ready = reading.select(PATIENCE)
            if not ready:
                raise RuntimeError(f"no token for {PATIENCE} s")
            for key, _ in ready:
                if not key.data.read():
                    reading.unregister(key.fileobj)
                    key.data.socket.close()
    return tokens_a_second([(stream.times[:-1], stream.tokens()) for stream in streams])


def tokens_a_second(streams):
    """Of the times of events and the number of tokens of each answer; the last event, which says why it ended, is left out."""
    all_begun = max(times[0] for times, _ in streams)
    end = max(times[-1] for times, _ in streams)
    if end <= all_begun:
        raise RuntimeError("the answers were too short to measure")
    shares = (sum(time > all_begun for time in times) / len(times) * tokens for times, tokens in streams)
    return sum(shares) / (end - all_begun)


def drop_pages(*files):
    """Takes files out of the page cache, where nobody has them mapped."""
    for file in files:
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
