#!/usr/bin/env bash
# Tries on this machine's GPUs what has not been run on one, and writes one file of results to paste into an issue.
#
#   bash launchers/gpu_check.sh                         in at most ten minutes
#   bash launchers/gpu_check.sh --output=FILE           the file; default: gpu_check-TIME.txt in the current folder
#   bash launchers/gpu_check.sh --only=WORD             only parts whose name contains the word
#   bash launchers/gpu_check.sh --device=cpu            the same parts on the CPU, to try this script
#   PYTHON=python3.11 bash launchers/gpu_check.sh       with another interpreter than that of .venv, or else python3
#
# Nothing is installed. What is not there is left out, and the file says so. It needs torch 2.11 or newer, and pytest for the tests.
# Every part has a time limit of its own. The exit code is 0 if no part failed, 1 if one did or there is no GPU.
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

readonly MOST=600 # seconds in all
split --output= --only= --device= -- "$@"
((${#REST[@]} == 0)) || fail "${REST[0]} is not understood; the head of ${BASH_SOURCE[0]} lists the options"
output=$PWD/gpu_check-$(date +%Y%m%d-%H%M%S).txt only='' device=cuda
for word in "${OWN[@]}"; do
    case $word in
        --output=*) output=$(realpath -m -- "${word#*=}") ;;
        --only=*) only=${word#*=} ;;
        --device=cpu | --device=cuda) device=${word#*=} ;;
        *) fail "$word: should be --device=cuda or --device=cpu" ;;
    esac
done

python=${PYTHON:-$VENV/bin/python}
command -v "$python" >/dev/null || python=python3
if [[ -n $DRY_RUN ]]; then
    say "Would run with $python on $device, and write $output"
    exit
fi
"$python" -c 'import torch' 2>/dev/null || fail "$python has no torch; PYTHON names an interpreter that has (launchers/quickstart.sh installs one)"
if [[ $device == cuda ]] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    fail "torch sees no GPU here (python -m dist_sparse.doctor tells why); --device=cpu tries the script without one"
fi

cd -- "$ROOT"
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=offline
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
: >"$output"
summary=() failed=0

tell() { printf '%s\n' "$*" | tee -a "$output"; }
has() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" 2>/dev/null; }

# note NAME OUTCOME
note() {
    summary+=("$(printf '%-40s  %s' "$1" "$2")")
    tell "--- $1: $2"
}

# part NAME SECONDS COMMAND...: runs a command within its limit and what is left of the whole; its last lines go into the file.
part() {
    local name=$1 limit=$2 start=$SECONDS left=$((MOST - SECONDS)) code=0 outcome
    shift 2
    [[ $name == *"$only"* ]] || return 0
    if ((left < 10)); then
        note "$name" "left out: the time is over"
        return
    fi
    if ((limit > left)); then limit=$left; fi
    # Told to end, a part has three seconds; what it has started ends with it.
    timeout --kill-after=3 "$limit" "$@" >"$scratch/said" 2>&1 </dev/null || code=$?
    tail -n 60 "$scratch/said" | cut -c -300 >>"$output"
    case $code in
        0) outcome="ok" ;;
        124 | 137) outcome="STOPPED at its limit of $limit s" ;;
        *) outcome="FAILED with $code" ;;
    esac
    if [[ $code != 0 ]]; then failed=1; fi
    if [[ $name == tests:* && $code != 124 && $code != 137 ]]; then
        outcome+=", $(tail -n 1 "$scratch/said" | sed 's/ in [0-9.]*s.*//')"
    fi
    note "$name" "$outcome ($((SECONDS - start)) s)"
}

# tests NAME SECONDS PYTEST'S WORDS...
tests() {
    local name=$1 limit=$2
    shift 2
    if ! has pytest; then
        if [[ $name == *"$only"* ]]; then note "$name" "left out: pytest is not installed"; fi
        return
    fi
    # Without the options of setup.cfg, which name plugins that may not be here.
    DIST_SPARSE_TEST_DEVICE=$device part "$name" "$limit" "$python" -m pytest -o addopts= --strict-markers --import-mode=importlib \
        -m gpu -rfEs --tb=short --quiet -p no:randomly -p no:cacheprovider "$@"
}

tell "gpu_check on $device, $(date -u +%FT%TZ)"
# What it finds broken, such as a package that is missing, is for the reader: no part of this check has failed by that.
# shellcheck disable=SC2016 # the inner shell expands it
part doctor 120 bash -c '"$0" -m dist_sparse.doctor || true' "$python"
tests "tests: kernels" 60 tests/gpu/test_kernels.py
tests "tests: methods against the CPU" 150 tests/gpu/test_training.py -k test_masks_are_those_of_the_cpu
tests "tests: precision, formats, resume" 100 tests/gpu/test_training.py -k "not test_masks_are_those_of_the_cpu"
tests "tests: compile" 90 tests/gpu/test_ranks.py -k compiled
if has nvidia.dali; then
    tests "tests: DALI's decoder" 30 tests/gpu/test_data.py
elif [[ "tests: DALI's decoder" == *"$only"* ]]; then
    note "tests: DALI's decoder" "left out: DALI is not installed"
fi
tests "tests: exchange between ranks" 60 tests/gpu/test_ranks.py -k two_ranks
if has deepspeed; then
    tests "tests: DeepSpeed's stages" 120 tests/gpu/test_ranks.py -k deepspeed
elif [[ "tests: DeepSpeed's stages" == *"$only"* ]]; then
    note "tests: DeepSpeed's stages" "left out: DeepSpeed is not installed"
fi
if [[ $device == cuda ]]; then
    if has triton && has hypothesis; then
        tests "tests: the others of the package" 90 tests/execution/test_triton.py tests/sparsity/test_masks.py tests/data/test_small.py \
            tests/plasticity/test_plasticity.py
    elif [[ "tests: the others of the package" == *"$only"* ]]; then
        note "tests: the others of the package" "left out: Triton or hypothesis is not installed"
    fi
    size=224 most=1024 rounds=7
else
    size=32 most=2 rounds=2
fi

batch=''
part "benchmark: the batch that fills it" 60 "$python" -m benchmarks.fill --device "$device" --precision bf16 --channels-last \
    --size "$size" --most "$most"
if [[ -f $scratch/said ]]; then batch=$(tail -n 1 "$scratch/said"); fi
[[ $batch =~ ^[1-9][0-9]*$ ]] || batch=2
for precision in fp32 bf16; do
    words=(--device "$device" --precision "$precision" --size "$size" --rounds "$rounds" --batch "$((batch > 64 ? 64 : batch))")
    if [[ $precision == bf16 ]]; then words+=(--channels-last); fi
    part "benchmark: step, $precision" 45 "$python" -m benchmarks.step "${words[@]}"
done
for compile in '' --compile; do
    part "benchmark: throughput, bf16${compile:+, compiled}" 75 "$python" -m benchmarks.throughput --synthetic --device "$device" \
        --precision bf16 --channels-last --batch "$batch" --size "$size" --rounds "$((rounds > 3 ? 3 : 1))" ${compile:+"$compile"}
done

tell "=== Summary ($SECONDS s)"
for line in "${summary[@]}"; do tell "$line"; done
say "The results are in $output"
exit "$failed"
