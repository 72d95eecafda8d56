#!/usr/bin/env bash
# Installs dist_sparse into .venv, once, and trains: RigL at density 0.1 on real handwritten digits, two processes.
#
#   bash launchers/quickstart.sh [--key=value ...]      overrides, for example --sparsity.density=0.05; --help lists all
#   bash launchers/quickstart.sh --dry-run              prints the command only, and installs nothing
#   PYTHON=python3.11 bash launchers/quickstart.sh      with another interpreter
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# The folder of the run that has just ended: the one that was asked for, or else the one whose summary is newer than file $1.
run_folder() {
    local place summary folder=''
    for ((place = 0; place < ${#REST[@]}; place++)); do
        case ${REST[place]} in
            --output=*) folder=${REST[place]#--output=} ;;
            --output) folder=${REST[place + 1]-} ;;
        esac
    done
    if [[ -z $folder ]]; then
        for summary in runs/*/summary.json; do
            if [[ $summary -nt $1 ]]; then folder=${summary%/summary.json}; fi
        done
    fi
    printf '%s' "${folder/#\~/$HOME}"
}

split -- "$@"
cd -- "$ROOT"
begun=$(mktemp)
trap 'rm -f -- "$begun"' EXIT
# In a shell of its own, since launch does not come back.
(launch torchrun --standalone --nproc-per-node=2 -m dist_sparse.train --config configs/digits/rigl.yaml "${REST[@]}")
folder=$(run_folder "$begun")
if [[ -z $DRY_RUN && -f $folder/summary.json ]]; then
    say "For a report to look at: .venv/bin/python -m dist_sparse.report $(printf '%q' "$folder")"
fi
