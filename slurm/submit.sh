#!/usr/bin/env bash
# Submits a job with the options in slurm/cluster.env, and prints the command that it runs.
#
#   bash slurm/submit.sh [--dry-run] [SBATCH OPTIONS] train [ARGUMENTS OF dist_sparse.train]     one run
#   bash slurm/submit.sh [--dry-run] [SBATCH OPTIONS] array GRID_FILE [MORE ARGUMENTS]           one run a line of a grid file
#   bash slurm/submit.sh [--dry-run] [SBATCH OPTIONS] sweep ENTITY/PROJECT/SWEEP                 agents of a W&B sweep
#
# Sbatch's options are of the form --name=value and win over those in the file: --nodes=2, --time=8:00:00, --array=4,17.
# An array has as many tasks as the grid has lines, a sweep as many agents as run side by side (ARRAY_AT_ONCE).
# --dry-run prints only.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() { fail "usage: bash slurm/submit.sh [--dry-run] [--sbatch-option=value ...] train|array|sweep ARGUMENTS..."; }

dry_run=false options=()
while [[ ${1:-} == -* ]]; do
    if [[ $1 == --dry-run ]]; then dry_run=true; else options+=("$1"); fi
    shift
done
kind=${1:-}
shift || usage

tasks=()
case $kind in
    train) ;;
    array)
        use_environment
        [[ -n ${1:-} ]] || fail "slurm/submit.sh array needs a grid file, such as configs/grids/digits_3x3x3.txt"
        count=$(PYTHONPATH=$ROOT python -m dist_sparse.grid count "$1")
        grid=$(realpath --relative-to="$ROOT" -- "$1")
        tasks=("--array=1-$count%$ARRAY_AT_ONCE")
        set -- "$grid" "${@:2}"
        ;;
    sweep)
        [[ -n ${1:-} ]] || fail "slurm/submit.sh sweep needs the sweep's path, as \`wandb sweep\` printed it"
        tasks=("--array=1-$ARRAY_AT_ONCE")
        ;;
    *) usage ;;
esac

cd -- "$ROOT"  # where the jobs start
command=(sbatch "${SBATCH_OPTIONS[@]}" "${tasks[@]}" "${options[@]}" "slurm/$kind.sbatch" "$@")
quoted=$(printf '%q ' "${command[@]}")
printf '%s\n' "${quoted% }"
if [[ $dry_run == false ]]; then "${command[@]}"; fi
