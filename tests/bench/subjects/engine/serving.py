"""What `grid-worker serve` costs beside the engine: start-up, memory, HTTP and scheduling, an idle moment, a CPU limit."""

import os
import time

from grid.environment import binary

from ..table import note, ratio, row, table
from .group import GroupError, LimitedGroup
from .rivals import MODELS, PAIRS, SMOLLM, in_turns, ours
from .server import KV_MIB, Server, drop_pages

IDLE_SECONDS = 5
AT_ONCE = 16


def serve():
    """From start to ready, warm and with a cold page cache; memory; processor time of an idle server."""
    for model in MODELS:
        table(f"grid-worker serve with {model.name}, file of {model.mib:.0f} MiB")
        warm, cold = in_turns(lambda: _started(model), lambda: _started(model, dropped=True))
        row("start to ready, file in the page cache (goal ≤ 2 s)", [after for after, *_ in warm], "s")
        row("start to ready, cold page cache (goal ≤ 6 s)", [after for after, *_ in cold], "s")
        row("… read from the disk meanwhile", [read for _, read, _ in cold], "MiB")
        row(f"resident when ready (goal ≤ 1.6 × file = {1.6 * model.mib:.0f})", [resident for *_, resident in warm], "MiB")
        with Server(model, sequences=AT_ONCE) as server:
            server.streams(AT_ONCE, 128)
            most = 1.6 * model.mib + KV_MIB
            row(f"most resident, {AT_ONCE} answers at once (goal ≤ 1.6 × file + {KV_MIB} of KV = {most:.0f})", [server.process.memory_mib("VmHWM")], "MiB")
            row("idle after that (goal < 1 % of a core)", [_idle_percent(server) for _ in range(PAIRS)], "% of a core")


def _started(model, dropped=False):
    if dropped:
        drop_pages(model.file, binary("grid-worker"))
    with Server(model) as server:
        return server.ready_after, server.read_mib(), server.process.memory_mib()


def _idle_percent(server):
    before, begun = server.cpu_of_threads(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    # A thread that ends takes its sum with it; those that are left count.
    spent = sum(seconds - before.get(thread, 0) for thread, seconds in server.cpu_of_threads().items())
    return 100 * spent / (time.monotonic() - begun)


def overhead():
    """HTTP, server-sent events and what else is around the engine: streamed answers beside the same through the engine alone."""
    for threads, at_once, tokens in ((1, 1, 128), (2, 1, 256), (2, AT_ONCE, 64)):
        table(f"{SMOLLM.name}, {threads} threads, {at_once} streamed answers of {tokens} tokens beside the engine alone (goal ≥ 0.97 ×)")
        with Server(SMOLLM, threads=threads, sequences=at_once) as server:
            server.streams(at_once, 16)
            served, direct = in_turns(
                lambda: server.streams(at_once, tokens),
                lambda: ours(SMOLLM, threads, prompt=14, output=tokens, sequences=at_once).together,
            )
        row("decode over HTTP", served, "tok/s")
        row("… engine", direct, "tok/s")
        ratio("over HTTP ÷ engine", served, direct)


def throttled():
    """Periods in which a server whose CPU limit is its thread count was held back, under load."""
    table("grid-worker serve with its CPU limit, four answers at once (goal: no throttled period)")
    for cores in sorted({1, os.cpu_count()}):
        try:
            with LimitedGroup(cores) as group, Server(SMOLLM, before=group.command()) as server:
                server.streams(4, 16)
                found = [_held_back(group, server) for _ in range(PAIRS)]
        except GroupError as error:
            note(f"Not measured: {error}.")
            return
        row(f"limit of {cores} cores: periods of 100 ms with load", [periods for periods, *_ in found], "")
        row("… of them throttled", [100 * throttled / max(periods, 1) for periods, throttled, _ in found], "%")
        row("… time that its threads stood still together", [1000 * lost for *_, lost in found], "ms")


def _held_back(group, server):
    before = group.stat()
    server.streams(4, 128)
    return tuple(now - then for now, then in zip(group.stat(), before))
