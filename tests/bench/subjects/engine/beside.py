"""Speed: beside llama.cpp and mistral.rs, deep in a context, many answers at once, and an answer that is checked."""

from ..table import note, ratio, row, table
from .rivals import MODELS, QWEN, Mistral, in_turns, install, llama, ours

DEEP, SHALLOW = 1024, 32
AT_ONCE = 16


def engine():
    """Engine beside llama.cpp: prefill of 128 tokens, decode of 32, one answer."""
    for model in MODELS:
        for threads in (1, 2):
            table(f"{model.name}, {threads} threads, beside llama.cpp (goals ≥ 1.0 ×, decode 1.1)")
            shape = {"model": model, "threads": threads, "prompt": 128, "output": 32}
            we, they = in_turns(lambda: ours(**shape), lambda: llama(**shape))
            _beside("prefill of 128", [speed.prefill for speed in we], "llama.cpp", [speed.prefill for speed in they])
            _beside("decode", [speed.decode for speed in we], "llama.cpp", [speed.decode for speed in they])


def larger():
    """A model ten times as large beside llama.cpp: prefill of 128 tokens, decode of 32 from near the start and behind 1,024; 2 threads."""
    install("qwen")
    table(f"{QWEN.name}, 2 threads, beside llama.cpp (goals ≥ 1.0 ×; decode behind {DEEP} ≥ 0.8 × of near the start)")
    shape = {"model": QWEN, "threads": 2, "output": 32}
    we, they, deep, their_deep = in_turns(
        lambda: ours(prompt=128, **shape), lambda: llama(prompt=128, **shape), lambda: ours(prompt=DEEP, **shape), lambda: llama(prompt=DEEP, **shape)
    )
    _beside("prefill of 128", [speed.prefill for speed in we], "llama.cpp", [speed.prefill for speed in they])
    _beside("decode", [speed.decode for speed in we], "llama.cpp", [speed.decode for speed in they])
    _beside(f"decode behind {DEEP}", [speed.decode for speed in deep], "llama.cpp", [speed.decode for speed in their_deep])
    _beside(f"decode behind {DEEP}", [speed.decode for speed in deep], "near the start", [speed.decode for speed in we])


def replay():
    """An answer of 128 tokens checked as one prefill, beside its generation."""
    for model in MODELS:
        table(f"replay beside generation, {model.name} (goal ≥ 5 ×)")
        for threads in (1, 2):
            (speeds,) = in_turns(lambda: ours(model, threads, prompt=8, output=128))
            written, checked = [speed.decode for speed in speeds], [speed.replay for speed in speeds]
            _beside(f"{threads} threads, replay", checked, "generation", written)


def depth():
    """Decode behind 1,024 tokens and behind 32, beside keys and values in f16 and beside llama.cpp there; 2 threads."""
    for model in MODELS:
        table(f"{model.name} behind {DEEP} tokens, 2 threads (goals: decode ≥ 0.8 × of behind {SHALLOW}, ≥ 1.0 × llama.cpp)")
        shape = {"model": model, "threads": 2, "output": 32}
        shallow, deep, half, they = in_turns(
            lambda: ours(prompt=SHALLOW, **shape),
            lambda: ours(prompt=DEEP, **shape),
            lambda: ours(prompt=DEEP, kv_type="f16", **shape),
            lambda: llama(prompt=DEEP, **shape),
        )
        _beside(f"decode behind {DEEP}", [speed.decode for speed in deep], f"behind {SHALLOW}", [speed.decode for speed in shallow])
        _beside(f"decode behind {DEEP} with f16 KV", [speed.decode for speed in half], "f32", [speed.decode for speed in deep])
        _beside(f"prefill of {DEEP} with f16 KV", [speed.prefill for speed in half], "f32", [speed.prefill for speed in deep])
        _beside("decode", [speed.decode for speed in deep], "llama.cpp", [speed.decode for speed in they])
        _beside(f"prefill of {DEEP}", [speed.prefill for speed in deep], "llama.cpp", [speed.prefill for speed in they])


def together():
    """Decode of 16 answers at once, beside one and beside llama.cpp's 16; 2 threads."""
    for model in MODELS:
        table(f"{model.name}, {AT_ONCE} answers at once, all tokens, 2 threads (goals ≥ 2.5 × one answer, ≥ 1.0 × llama.cpp)")
        shape = {"model": model, "threads": 2, "prompt": 8, "output": 32, "sequences": AT_ONCE}
        we, they = in_turns(lambda: ours(**shape), lambda: llama(**shape))
        all_tokens = [speed.together for speed in we]
        _beside("decode", all_tokens, "one answer", [speed.decode for speed in we])
        _beside("decode", all_tokens, "llama.cpp", [speed.together for speed in they])


def mistral():
    """Engine beside mistral.rs 0.9.5: prefill of about 64 tokens, decode of 16; 2 threads."""
    for model in MODELS:
        with Mistral(model, threads=2) as rival:
            table(f"{model.name}, 2 threads, beside mistral.rs {rival.version} (goal ≥ 2 ×)")
            rival.speed(4, 2)
            we, they = in_turns(lambda: ours(model, 2, prompt=64, output=16), lambda: rival.speed(words=60, output=16))
        theirs = [speed for speed, _ in they]
        _beside("prefill", [speed.prefill for speed in we], "mistral.rs", [speed.prefill for speed in theirs])
        _beside("decode", [speed.decode for speed in we], "mistral.rs", [speed.decode for speed in theirs])
        note(f"Prompts: ours 64 tokens, mistral.rs {min(count for _, count in they)} – {max(count for _, count in they)}.")


def _beside(what, values, beside, others):
    """Two measured things in turns, and the ratio of each pair."""
    row(what, values, "tok/s")
    row(f"… {beside}", others, "tok/s")
    ratio(f"{what} ÷ {beside}", values, others)
