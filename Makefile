# Everything a person types here. `make help` lists it. Tools are pinned and cached outside the tree.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

CACHE := $(or $(XDC_GRID_CACHE),$(HOME)/.cache/xdc-grid)
export XDC_GRID_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(CACHE)/bin:$(PATH)
INSTALL := tests/tools/install
# A cluster of the user's, named by KUBECONFIG, needs none of the local cluster's parts.
THEIRS := $(filter-out $(CURDIR)/.cluster/%,$(subst :, ,$(KUBECONFIG)))
TOOLS := $(if $(THEIRS),client-tools,grid-tools)

.PHONY: help demo test up down bench nightly fmt lint crds images tools abi check-cuda check-arm image-cuda

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ready ## set everything up from nothing, run the main job, pay a claim, leave it running (KUBECONFIG=… IMAGE=…: in your cluster)
	@python3 tests/e2e/demo.py demo

up: ready ## cluster, chain and chart, without the story
	@python3 tests/e2e/demo.py up

down: ## remove all that `make up` or `make demo` made
	@python3 tests/e2e/demo.py down

test: tools ## every test; `tests/run.py PART…` runs only some
	@python3 tests/run.py

bench: CARGO_FLAGS := --config profile.dev.package.xdc-grid.opt-level=3
bench: tools build ## measured figures, beside the named rivals, as tables; `tests/bench/run.py NAME…` measures only some
	@python3 tests/bench/run.py

nightly: tools ## what takes too long for `make test`: a larger model, 10 million damaged model files, 1,000 histories of faults, the contracts' random tests (over an hour)
	$(INSTALL) qwen
	CANDLE_DEQUANTIZE_ALL=1 cargo test --locked --test it -- --ignored engine_oracle --nocapture --test-threads=1
	GRID_FUZZ_CASES=10000000 cargo test --locked -p xdc-grid-inference --lib -- a_damaged_file
	GRID_FAULT_RUNS=1000 GRID_FAULT_SEED=$$RANDOM tests/cluster/with-control-plane cargo test --locked --test it -- faults::random --nocapture
	npm run --silent --prefix contracts nightly

fmt: ## format Rust, Go and Solidity
	@cargo fmt
	gofmt -w tests/cluster tests/bench
	npm run --silent --prefix contracts fmt

lint: tools ## formatting, clippy, chart and shell checks
	@python3 tests/run.py fmt clippy chart

crds: ## regenerate crds/ and the chart's copy from src/api
	@cargo run --quiet --locked --bin grid-operator -- crds --out crds
	mkdir -p charts/xdc-grid/crds-files
	cp crds/*.yaml charts/xdc-grid/crds-files/

images: tools build ## the image with the three server binaries, as an OCI archive
	@python3 tests/e2e/demo.py image

check-cuda: ## compile for GPUs without having one, and start the program; not part of `make test`
	@tests/cuda/check

check-arm: ## run the engine's tests as 64-bit ARM, under an emulator; not part of `make test`
	@tests/arm/check

image-cuda: ## the image for GPUs, by Docker or Podman (Dockerfile.cuda)
	@tests/cuda/image

.PHONY: build
build:
	@echo "building the binaries (a cold build takes about 15 minutes on 2 cores, 20 with Kubernetes beside it)"
	cargo build --locked --bins --example grid-cheater $(CARGO_FLAGS)

# Side by side: linking Kubernetes and compiling our own crate each keep one core busy for minutes.
.PHONY: ready
ready:
	@$(MAKE) --no-print-directory -j2 $(TOOLS) build

.PHONY: client-tools
client-tools:
	@$(INSTALL) kubectl helm foundry model

.PHONY: grid-tools
grid-tools:
	@$(INSTALL) apt kubectl helm foundry model
	tests/cluster/cluster.sh build

tools: ## install pinned tools into the cache
	@$(INSTALL) all
	tests/cluster/cluster.sh build
	[[ -d contracts/node_modules ]] || npm ci --silent --ignore-scripts --prefix contracts
