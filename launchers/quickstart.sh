#!/usr/bin/env bash
# Installs dist_sparse into .venv, once, and trains: RigL at density 0.1 on real handwritten digits, two processes.
#
#   bash launchers/quickstart.sh [--key=value ...]      overrides, for example --sparsity.density=0.05; --help lists all
#   bash launchers/quickstart.sh --dry-run              prints the command only, and installs nothing
#   PYTHON=python3.11 bash launchers/quickstart.sh      with another interpreter
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

split -- "$@"
cd -- "$ROOT"
launch torchrun --standalone --nproc-per-node=2 -m dist_sparse.train --config configs/digits/rigl.yaml "${REST[@]}"
