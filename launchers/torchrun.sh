#!/usr/bin/env bash
# Trains on the ranks of one node, or of several when started on each of them with the same words.
#
#   bash launchers/torchrun.sh --config configs/imagenet/rigl_itop.yaml [--key=value ...]
#   bash launchers/torchrun.sh --nnodes=2 --rdzv-endpoint=node1:29500 --config configs/imagenet/rigl_itop.yaml [--key=value ...]
#
# --nproc-per-node   ranks on a node; default: its GPUs, or 2 where there is none
# --nnodes           nodes; default 1
# --rdzv-endpoint    HOST:PORT of the node where they meet, needed with more than one
# --rdzv-id          a name that tells runs apart that meet there
# --max-restarts     how often all ranks begin anew, with --resume=auto from the last checkpoint, after one has died; default 0
# --dry-run          print the command only
#
# Everything else is for dist_sparse.train; --help lists it. Paths are relative to where this is called.
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

split --nproc-per-node= --nnodes= --rdzv-endpoint= --rdzv-id= --max-restarts= -- "$@"
options=" ${OWN[*]} "

if [[ $options != *' --nproc-per-node='* ]]; then
    if has_gpu; then OWN+=(--nproc-per-node=gpu); else OWN+=(--nproc-per-node=2); fi
fi
if [[ $options == *' --rdzv-endpoint='* ]]; then
    OWN+=(--rdzv-backend=c10d)
    # Restarted ranks need a store of their own: the nodes do not agree how often they were restarted.
    if [[ $options == *' --max-restarts='* ]]; then export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; fi
elif [[ $options == *' --nnodes='* && $options != *' --nnodes=1 '* ]]; then
    fail "--nnodes needs --rdzv-endpoint=HOST:PORT, the same on every node: where they meet"
else
    OWN+=(--standalone)
fi

# Ranks that are told to stop save first: all signals reach them, and they have more than the default of 30 seconds.
launch torchrun "${OWN[@]}" --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=100 \
    -m dist_sparse.train "${REST[@]}"
