#!/usr/bin/env python3
"""`make test`: every part in turn, what failed and how to run only that, and a last line `N passed, N failed`.

    tests/run.py             all parts
    tests/run.py unit e2e    only these
"""

import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("XDC_GRID_CACHE", pathlib.Path.home() / ".cache" / "xdc-grid"))
ENV = os.environ | {
    "XDC_GRID_CACHE": str(CACHE),
    "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(CACHE / "target")),
    "PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}",
}

# name, commands, and for each command the pattern that counts what it ran (None: the command itself is one check)
CARGO = r"test result: .*? (\d+) passed; (\d+) failed"
SUMMARY = r"(\d+) passed, (\d+) failed$"
PARTS = {
    "fmt": [("cargo fmt --check", None), ("test -z \"$(gofmt -l tests/cluster tests/bench)\"", None), ("npm run --silent --prefix contracts fmt:check", None)],
    "clippy": [("cargo clippy --locked --workspace --all-targets -- -D warnings", None)],
    "features": [("tests/features", None)],
    "unit": [("cargo test --locked --workspace --lib", CARGO)],
    "contracts": [
        ("npm run --silent --prefix contracts build", None),
        ("npm run --silent --prefix contracts abi:check", None),
        ("npm run --silent --prefix contracts shanghai", None),
        ("npm test --silent --prefix contracts", r"(\d+) tests? passed, (\d+) failed"),
    ],
    "cluster": [
        ("cd tests/cluster && go vet ./... && go test -v ./...", r"^--- (PASS|FAIL)"),
        ("cd tests/cluster/devices && go vet ./... && go test -v ./...", r"^--- (PASS|FAIL)"),
    ],
    "scripts": [
        ("cd tests/e2e && python3 -m unittest -v test_place test_reading test_report 2>&1", r"\.\.\. (ok|FAIL|ERROR)$"),
        ("cd tests/bench && python3 -m unittest -v test_audit test_streams 2>&1", r"\.\.\. (ok|FAIL|ERROR)$"),
        ("cd tests/bench/load && go vet ./...", None),
    ],
    "chart": [("tests/chart/check", SUMMARY)],
    "it": [("tests/cluster/with-control-plane cargo test --locked --test it", CARGO)],
    "e2e": [("cargo build --locked --bins --example grid-cheater", None), ("python3 tests/e2e/test.py", SUMMARY)],
    # After e2e, which leaves the binaries: the demo on a cluster that it did not make.
    "existing": [("cargo build --locked --bins --example grid-cheater", None), ("python3 tests/e2e/existing.py", SUMMARY)],
}

# Lines that say what failed, whatever ran: said again at the end, where a person or a log's last page shows them.
TOLD = re.compile(r"^(test .* FAILED$|FAILED |✘ |--- FAIL|\[FAIL|not ok |.* \.\.\. (FAIL|ERROR)$|error(\[|:)|thread '.*' .*panicked at|not within )")


def told(output):
    """What a command said of its failures, bounded; a panic's message is the line after its place."""
    lines = output.splitlines()
    chosen = []
    for number, line in enumerate(lines):
        if TOLD.match(line):
            chosen.append(line)
            chosen += lines[number + 1 : number + 2] if "panicked at" in line else []
    return [line[:300] for line in chosen[:30]]


def counted(pattern, output, succeeded):
    """(passed, failed) of one command; a command that failed without a failed test still counts one."""
    if pattern is None:
        return int(succeeded), int(not succeeded)
    found = re.findall(pattern, output, re.MULTILINE)
    if found and isinstance(found[0], str):
        passed = sum(word in ("PASS", "ok") for word in found)
        failed = len(found) - passed
    else:
        passed, failed = sum(int(a) for a, _ in found), sum(int(b) for _, b in found)
    return passed, failed or int(not succeeded)


def run(command):
    """Streams a command's output and returns it with its success."""
    process = subprocess.Popen(command, shell=True, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, executable="/bin/bash")
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return "".join(lines), process.wait() == 0


def main():
    chosen = sys.argv[1:] or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        sys.exit(f"no part named {', '.join(unknown)}; there are {', '.join(PARTS)}")
    passed = failed = 0
    broken = []
    begun = time.monotonic()
    for number, name in enumerate(chosen, 1):
        print(f"\n=== {name} ({number} of {len(chosen)}, {time.monotonic() - begun:.0f} s so far)", flush=True)
        for command, pattern in PARTS[name]:
            output, succeeded = run(command)
            good, bad = counted(pattern, output, succeeded)
            passed, failed = passed + good, failed + bad
            if bad:
                broken.append((name, told(output)))
                break
    for name, lines in broken:
        print(f"{name} failed; only that part again: tests/run.py {name}")
        for line in lines:
            print(f"  {line}")
    print(f"took {time.monotonic() - begun:.0f} s")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
