#!/usr/bin/env bash
# Runs every check: lint, format, types, the layer rule, the scripts, the tests. Needs nothing but Python 3.10 or newer.
#
#   bash launchers/test.sh [pytest's arguments]         for example tests/data, or -m "not slow"
#   bash launchers/test.sh --randomly-seed=N            the order of an earlier run, whose report begins with its seed
#   bash launchers/test.sh -p no:randomly               the order of the files: else it is another one each time
#   CI=true bash launchers/test.sh                      a missing package that tests need is an error
#
# All steps run even if one fails; the exit code is 0 only if all passed. pytest is the last one.
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

failed=()

# Debian's packages that some tests read or run: Fashion-MNIST, 31 MB of real images, Slurm's daemons, and a C++ compiler.
# shellcheck disable=SC2329 # called through step
install_packages() {
    local missing=()
    [[ -d /usr/share/datasets/fashion-mnist ]] || missing+=(dataset-fashion-mnist)
    [[ -x /usr/sbin/slurmctld && -x /usr/sbin/slurmd ]] || missing+=(slurm-wlm)
    [[ -x /usr/sbin/munged ]] || missing+=(munge)
    command -v c++ >/dev/null || missing+=(g++)
    ((${#missing[@]})) || return 0
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        say "Not installed (that takes root and apt-get): ${missing[*]}; the tests that need them will be skipped"
        [[ ${CI:-} != true ]]
        return
    fi
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install -qq -y --no-install-recommends "${missing[@]}")
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; }
}

# step NAME COMMAND...: runs the command, prints name, outcome and duration, and remembers a failure.
step() {
    local name=$1 start=$SECONDS outcome=ok
    shift
    printf -- '--- %s\n' "$name"
    "$@" || outcome=FAILED
    [[ $outcome == ok ]] || failed+=("$name")
    printf -- '--- %s: %s (%s s)\n' "$name" "$outcome" "$((SECONDS - start))"
}

ensure_environment test
cd -- "$ROOT"
export PATH=$VENV/bin:$PATH OMP_NUM_THREADS=1 WANDB_MODE=offline
unset PYTHONDONTWRITEBYTECODE # or each of a hundred processes that tests start compiles the package anew

step "Debian packages" install_packages
step "ruff check" ruff check --quiet --output-format=concise
step "ruff format" ruff format --quiet --diff
step "types" basedpyright --level error
step "layers" lint-imports --no-logo --no-cache
step "scripts" shellcheck --external-sources --source-path=SCRIPTDIR --source-path=. \
    launchers/*.sh slurm/*.sh slurm/*.sbatch slurm/*.env .ci/run
if ((${#failed[@]})); then
    printf 'Failed before the tests: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')"
fi

printf -- '--- pytest\n'
status=0
pytest --numprocesses=3 "$@" || status=$? # two cores: one of the three mostly waits, see the marker
if ((status != 0)); then exit "$status"; fi
exit "$((${#failed[@]} != 0))"
