#!/usr/bin/env bash
# Runs a W&B agent: it trains one combination of a sweep after another, each with torchrun as the sweep's file says.
#
#   wandb sweep --project=dist_sparse configs/sweeps/digits_grid.yaml      makes the sweep, and prints its path
#   bash launchers/sweep_agent.sh ENTITY/PROJECT/SWEEP                     as often, and on as many machines, as you like
#
# --count            runs that this agent trains; default: until the sweep is over
# --project, --entity   where the path does not name them
# --dry-run          print the command only
#
# A signal to the agent goes on to the ranks, which save and stop. The sweep's paths are relative to the repository's root.
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

split --count= --project= --entity= -- "$@"
((${#REST[@]} == 1)) || fail "usage: bash launchers/sweep_agent.sh [--count=N] [--project=P] [--entity=E] SWEEP"

if in_clone; then cd -- "$ROOT"; fi
launch wandb agent --forward-signals "${OWN[@]}" "${REST[@]}"
