# The one image: grid-operator, grid-gateway, grid-worker. `make images` builds the same contents without Docker (from the
# binaries that cargo built and what ldd names); this file is for people who have a Docker or Podman. Workers on GPUs have an image of their
# own, from Dockerfile.cuda.
#
#   docker build -t xdc-grid:0.1.0 .
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
ARG FEATURES=operator,gateway,worker,register
RUN apt-get update && apt-get install -y --no-install-recommends cmake clang && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY src src
COPY crds crds
COPY contracts/abi contracts/abi
COPY tests/it tests/it
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --features "${FEATURES}" \
      --bin grid-operator --bin grid-gateway --bin grid-worker \
 && mkdir /out && cp target/release/grid-operator target/release/grid-gateway target/release/grid-worker /out/

FROM ${BASE_IMAGE}
# CA certificates: RPC endpoints, model sources and buckets are reached over TLS.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
COPY LICENSE /usr/share/doc/xdc-grid/LICENSE
USER 65532:65532
# No entry point: the chart names the program.
CMD ["/usr/local/bin/grid-worker", "--help"]
