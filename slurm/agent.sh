#!/usr/bin/env bash
# One W&B agent; sweep.sbatch starts it. Not for the command line: launchers/sweep_agent.sh is.
#
#   bash slurm/agent.sh ENTITY/PROJECT/SWEEP
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
use_environment

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
command=(wandb agent --count="$RUNS_PER_AGENT" "$@")
say "$SLURMD_NODENAME: $(printf '%q ' "${command[@]}")"
supervise "${command[@]}"
