#!/usr/bin/env bash
# Builds the cluster command when its sources changed, then runs it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v go >/dev/null || {
  echo "cluster: Go 1.26 is needed to build the local Kubernetes, and 'go' is not on PATH" >&2
  exit 1
}
go build -C "$here" -trimpath -o bin/cluster .
XDC_GRID_CLUSTER_SOURCE=$here exec "$here/bin/cluster" "$@"
