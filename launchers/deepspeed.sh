#!/usr/bin/env bash
# Trains with the DeepSpeed engine, started by DeepSpeed's own launcher: on this machine, or from here on the hosts of a hostfile.
#
#   bash launchers/deepspeed.sh --config configs/imagenet/rigl_itop.yaml [--key=value ...]
#   bash launchers/deepspeed.sh --hostfile=hosts --config configs/imagenet/rigl_itop.yaml [--key=value ...]
#
# A hostfile has a line `NAME slots=GPUS` for each node; they are reached by ssh without a password, through pdsh.
#
# --num_gpus                          ranks on a node; default: its GPUs, or 2 where there is none
# --hostfile, --num_nodes             the nodes; and only the first so many of them
# --include, --exclude                some of their GPUs, as `deepspeed --help` tells
# --master_addr, --master_port        where the ranks meet; default: the first node, 29500
# --launcher, --launcher_args, --ssh_port, --no_ssh, --node_rank      how the nodes are reached, as `deepspeed --help` tells
# --dry-run                           print the command only
#
# Everything else is for dist_sparse.train; --help lists it. Paths are relative to where this is called, on every node.
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

split --hostfile= --num_nodes= --num_gpus= --include= --exclude= --master_addr= --master_port= \
    --launcher= --launcher_args= --ssh_port= --no_ssh --node_rank= -- "$@"

if [[ " ${OWN[*]}" != *' --'@(num_gpus|hostfile|include|exclude)=* ]] && ! has_gpu; then OWN+=(--num_gpus=2); fi

# Ranks read theirs from the environment, as under torchrun.
launch deepspeed "${OWN[@]}" --no_local_rank --module dist_sparse.train --engine.name=deepspeed "${REST[@]}"
