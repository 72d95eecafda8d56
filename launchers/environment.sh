# shellcheck shell=bash
# Sourced by the other launchers: makes .venv at the repository's root and installs the package into it, once.
#
#   ensure_environment           the package, with DALI and DeepSpeed where the platform has them
#   ensure_environment test      what the checks and benchmarks need as well
#   split OPTIONS -- WORDS...    which words of a launcher's command line are its own
#   launch COMMAND...            ensure_environment, and the command in it
#
# PYTHON chooses the interpreter (3.10 or newer). When nothing has changed since the last time, pip is not started at all.

ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
CONSTRAINTS=$ROOT/launchers/constraints.txt

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# The first interpreter that is new enough; PYTHON, when set, is the only candidate.
find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10)
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "${PYTHON:-python3} is not Python 3.10 or newer; set PYTHON to one that is, for example PYTHON=python3.11"
}

make_venv() {
    local python
    # A clone that was moved or copied has scripts in .venv/bin that start the old place's interpreter.
    if [[ $(cat "$VENV/made-at" 2>/dev/null || printf '%s' "$ROOT") == "$ROOT" ]] \
        && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "$python lacks the venv module; on Debian or Ubuntu: apt-get install python3-venv"
    say "Making the virtual environment $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
    printf '%s' "$ROOT" >"$VENV/made-at"
}

# A pip that was killed leaves a package in part, which the next one would take for whole: of what pip records, INSTALLER comes
# after the package's files and programs.
forget_parts() {
    local package
    for package in "$VENV"/lib/python*/site-packages/*.dist-info; do
        if [[ -d $package && ! -e $package/INSTALLER ]]; then rm -r "$package"; fi
    done
}

pip_install() {
    forget_parts
    "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --constraint "$CONSTRAINTS" --editable "$1"
}

install_package() {
    local extra
    say "Installing dist_sparse and its dependencies: about 6 GB, a few minutes, only this once"
    pip_install "$ROOT" || fail "pip could not install the package (its message is above)"
    for extra in dali deepspeed; do
        if ! getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
            say "Going on without $extra: it needs Linux with glibc"
        elif ! pip_install "${ROOT}[$extra]" 2>"$VENV/$extra.log"; then
            say "Going on without $extra: it could not be installed here (see $VENV/$extra.log)"
        fi
    done
}

install_test() {
    say "Installing what the checks need"
    pip_install "${ROOT}[test]" || fail "pip could not install what the checks need (its message is above)"
}

# once NAME: runs install_NAME unless it has succeeded with these very requirements.
once() {
    local stamp=$VENV/installed-$1 fingerprint
    fingerprint=$(printf '%s' "$ROOT" | cat - "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$CONSTRAINTS" | cksum)
    if [[ $(cat "$stamp" 2>/dev/null) != "$fingerprint" ]] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
        make_venv
        "install_$1"
        printf '%s' "$fingerprint" >"$stamp"
    fi
}

# Without a clone around them (python -m dist_sparse.launch of an installed package) the programs are those on PATH.
in_clone() { [[ -f $ROOT/setup.cfg ]]; }

ensure_environment() {
    in_clone || return 0
    once package
    if [[ ${1:-} == test ]]; then
        once test
    fi
}

# split OPTIONS -- WORDS...: the words that are --dry-run or one of the OPTIONS (--name= takes a value, --name none) are the
# launcher's, wherever they stand. Sets DRY_RUN (1 or empty), and the arrays OWN and REST.
split() {
    local known=' '
    while [[ $1 != -- ]]; do
        known+="$1 "
        shift
    done
    shift
    DRY_RUN='' OWN=() REST=()
    while (($#)); do
        if [[ $1 == --dry-run ]]; then
            DRY_RUN=1
        elif [[ $known == *" $1 "* || ($1 == *=* && $known == *" ${1%%=*}= "*) ]]; then
            OWN+=("$1")
        elif [[ $known == *" $1= "* ]]; then
            (($# > 1)) || fail "$1 needs a value"
            OWN+=("$1=$2")
            shift
        else
            REST+=("$1")
        fi
        shift
    done
}

# launch COMMAND...: print the command; unless DRY_RUN is set, run it in the environment.
launch() {
    local quoted
    quoted=$(printf '%q ' "$@")
    if [[ -n $DRY_RUN ]]; then
        printf '%s\n' "${quoted% }"
        return
    fi
    ensure_environment
    say "Running: ${quoted% }"
    if in_clone; then PATH=$VENV/bin:$PATH; fi
    export PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    exec "$@"
}

has_gpu() {
    [[ -n ${CUDA_VISIBLE_DEVICES-all} ]] && nvidia-smi --list-gpus 2>/dev/null | grep -q .
}
