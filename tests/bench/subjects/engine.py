"""Our engine and llama.cpp on the same file, interleaved in one run."""

from grid.shell import run


def engine():
    """Engine beside llama.cpp: prefill, decode, replay."""
    print("\n### engine against llama.cpp\n", flush=True)
    print(run("cargo", "test", "--quiet", "--locked", "--test", "it", "speed_beside", "--", "--ignored", "--nocapture", timeout=1800), flush=True)
