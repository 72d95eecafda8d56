#!/usr/bin/env bash
# One node's share of a run; train and array.sbatch start it on every node of the job. Not for the command line.
#
#   bash slurm/node.sh RUN_FOLDER ARGUMENTS...          with RDZV_ENDPOINT and CPU_RANKS in the environment
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
use_environment

output=$1
shift
ranks=${SLURM_GPUS_ON_NODE:-$((CPU_RANKS > 0 ? CPU_RANKS : 1))}
threads=$((SLURM_CPUS_ON_NODE / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
# On several nodes restarted ranks need a store of their own: the nodes do not agree how often they were restarted.
if ((SLURM_JOB_NUM_NODES > 1 && MAX_RESTARTS > 0)); then export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; fi
export PYTHONFAULTHANDLER=1  # a crash in compiled code leaves Python's traceback, too

signals=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
command=(torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$ranks" --max-restarts="$MAX_RESTARTS"
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$RDZV_ENDPOINT"
    --rdzv-conf="is_host=$((SLURM_NODEID == 0))" --local-addr="$(address_of "$SLURMD_NODENAME")"
    "--signals-to-handle=$signals" --shutdown-timeout="$SAVE_SECONDS"
    --log-dir="$output/logs/torchrun/$SLURMD_NODENAME" --tee=3
    -m dist_sparse.train "$@")
say "$SLURMD_NODENAME: $(printf '%q ' "${command[@]}")"

supervise "${command[@]}"
