#!/usr/bin/env bash
# Installs dist_sparse into .venv, once, and trains: RigL at density 0.1 on real handwritten digits, two processes.
#
#   bash launchers/quickstart.sh [--key=value ...]      overrides, for example --sparsity.density=0.05; --help lists all
#   PYTHON=python3.11 bash launchers/quickstart.sh      with another interpreter
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment

cd -- "$ROOT"
command=(torchrun --standalone --nproc-per-node=2 -m dist_sparse.train --config configs/digits/rigl.yaml "$@")
say "Running: $(printf '%q ' "${command[@]}")"
export PATH=$VENV/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${command[@]}"
