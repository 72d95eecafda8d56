# shellcheck shell=bash
# Sourced by the other scripts here: the cluster's settings, and what happens to one run within an allocation.
#
# A run's folder holds, beside what training writes there,
#   slurm/job             the job that trains here, so that no second one does
#   slurm/JOB-START.txt   the environment of each start
#   preempted             made by training once it has saved because it was told to stop

source "$(dirname -- "${BASH_SOURCE[0]}")/../launchers/environment.sh"

CLUSTER_ENV=${CLUSTER_ENV:-$ROOT/slurm/cluster.env}
[[ -r $CLUSTER_ENV ]] || fail "CLUSTER_ENV=$CLUSTER_ENV cannot be read"
# shellcheck source=slurm/cluster.env
source "$CLUSTER_ENV"

EX_TEMPFAIL=75   # the exit code of what was told to stop before it had finished
START=${SLURM_RESTART_COUNT:-0}
# An array's last task has the whole array's job id for its own: in an array, only this form always means one task.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
JOB=${JOB:-${SLURM_JOB_ID:-}}

use_environment() {
    if ((${#MODULES[@]})); then
        command -v module >/dev/null \
            || fail "MODULES in $CLUSTER_ENV: there is no command 'module' here; let that file source what defines it"
        set +u  # modules' own scripts read unset variables
        module load "${MODULES[@]}"
        set -u
    fi
    [[ -x $VENV/bin/torchrun ]] || fail "VENV=$VENV in $CLUSTER_ENV has no torchrun; launchers/quickstart.sh makes $ROOT/.venv"
    export PATH=$VENV/bin:$PATH
    if [[ -n $NETWORK_INTERFACE ]]; then
        export GLOO_SOCKET_IFNAME=$NETWORK_INTERFACE NCCL_SOCKET_IFNAME=$NETWORK_INTERFACE
    fi
}

# option NAME ARGUMENT...: the value that the last --NAME=VALUE (or --NAME VALUE, or NAME=VALUE) gives; nothing if none does.
# A ~ at its beginning is the home folder, as for the run.
option() {
    local name=$1 value='' previous='' word
    shift
    for word in "$@"; do
        case $word in
            "--$name="* | "$name="*) value=${word#*=} ;;
            *) [[ $previous != "--$name" ]] || value=$word ;;
        esac
        previous=$word
    done
    if [[ $value == \~ || $value == \~/* ]]; then value=$HOME${value:1}; fi
    printf '%s' "$value"
}

# train OUTPUT [ARGUMENT...]: one run of dist_sparse.train on all nodes of this job, from its last checkpoint if it has one.
train() {
    local output=$1 code=0
    shift
    if grep -qs '"exit_reason": "finished"' "$output/summary.json"; then
        python -m dist_sparse.finished "--output=$output" "$@" || code=$?
        case $code in
            0) say "$output is finished: nothing is left to do"; return ;;
            2) return 2 ;;  # it was trained with other arguments
            *) code=0 ;;
        esac
    fi
    claim "$output" || return 0
    check_starts
    rm -f -- "$output/preempted"
    record_environment >"$output/slurm/$JOB-$START.txt"
    local arguments=("--output=$output" --resume=auto "$@")
    # The user's own --resume was for the first start, and is until this job has saved; never would refuse what that left.
    if ((START)) && { [[ $(option resume "$@") == never ]] || has_saved "$output"; }; then arguments+=(--resume=auto); fi
    on_every_node node.sh "$output" "${arguments[@]}" || code=$?
    if ((code == EX_TEMPFAIL)) || { ((code)) && [[ -e $output/preempted ]]; }; then
        requeue
    fi
    return "$code"
}

# has_saved OUTPUT: true if there is a checkpoint there from after this job's first start.
has_saved() {
    [[ -n $(find "$1/checkpoints" -name '*.pt' -newer "$1/slurm/$JOB-0.txt" 2>/dev/null) ]]
}

# claim OUTPUT: false if another job is training there; whatever else goes wrong ends the job, as set -e does not in here.
claim() {
    local file=$1/slurm/job owner
    mkdir -p -- "$1/slurm" || fail "$1/slurm cannot be written"
    if ! (set -o noclobber && printf '%s' "$JOB" >"$file") 2>/dev/null; then
        owner=$(cat -- "$file" 2>/dev/null)  # empty if a full disk took no more of it than its name
        if [[ -n $owner && $owner != "$JOB" ]] && under_way "$owner"; then
            say "$1 is being trained by job $owner: nothing to do here"
            return 1
        fi
        printf '%s' "$JOB" >"$file" || fail "$file cannot be written"
    fi
}

under_way() {
    [[ -n $(squeue --noheader --jobs="$1" --states=CONFIGURING,RUNNING,SUSPENDED,COMPLETING 2>/dev/null) ]]
}

record_environment() {
    printf '%s\n' "date=$(date --iso-8601=seconds)" "cluster_env=$CLUSTER_ENV" "modules=${LOADEDMODULES:-}"
    env | grep -E '^(SLURM|SBATCH|CUDA|NCCL|GLOO|OMP|TORCH|PATH|LD_LIBRARY_PATH|VIRTUAL_ENV|WANDB_MODE)[A-Z0-9_]*=' | sort
    scontrol show job "$JOB" || true
    if command -v nvidia-smi >/dev/null; then nvidia-smi --list-gpus || true; fi
}

# on_every_node SCRIPT [ARGUMENT...]: one task a node, which has all that the job has there.
on_every_node() {
    local script=$1 first code=0
    shift
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    RDZV_ENDPOINT=$(address_of "$first"):$((10000 + SLURM_JOB_ID % 20000))  # array tasks share nodes: a port of the job's own
    CPU_RANKS=${SLURM_NTASKS_PER_NODE:-$((${SLURM_NTASKS:-1} / SLURM_JOB_NUM_NODES))}
    export RDZV_ENDPOINT CPU_RANKS CLUSTER_ENV
    # A node whose ranks have failed leaves the others 20 seconds to end by themselves: the one that writes the checkpoint
    # must not be killed because another was done earlier.
    local step=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none
        --kill-on-bad-exit=0 --wait=20 --export=ALL --label)
    # Of the whole job: scancel, the end of its time, scancel --full --signal=USR1. Slurm tells the tasks too; wait for them.
    trap : TERM USR1
    env -u SLURM_NTASKS -u SLURM_NTASKS_PER_NODE -u SLURM_CPUS_PER_TASK -u SLURM_GPUS_PER_TASK -u SLURM_TRES_PER_TASK \
        "${step[@]}" bash "$ROOT/slurm/$script" "$@" &
    await $! || code=$?
    trap - TERM USR1
    return "$code"
}

# supervise COMMAND...: what a task does; EX_TEMPFAIL if it failed after Slurm's signal, which every process of the step gets.
supervise() {
    local code=0 told='' deadline
    trap 'told=1' USR1 TERM
    "$@" &
    await $! || code=$?
    # torchrun dies of a second signal, and W&B's agent of the first, while the ranks save. The end of the task would be theirs.
    deadline=$((SECONDS + SAVE_SECONDS))
    while [[ -n $told ]] && ((SECONDS < deadline)) && ranks_left; do sleep 0.2; done
    if ((code)) && [[ -n $told ]]; then code=$EX_TEMPFAIL; fi
    return "$code"
}

ranks_left() {
    # grep fails of other users' processes, which cannot be read, and of those that have just ended.
    (set +o pipefail; grep -lsz "^SLURM_JOB_ID=$SLURM_JOB_ID\$" /proc/[0-9]*/environ | xargs -r grep -lsz '^RANK=' | grep -q .)
}

# await PID: its exit code, however many signals come in between.
await() {
    local code=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do
        code=0
        wait "$1" || code=$?
    done
    return "$code"
}

address_of() {
    scontrol show node --oneliner "$1" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2
}

# Slurm requeues jobs, too: after preemption without grace, or when a node has failed, which a job may be the cause of.
check_starts() {
    ((START <= MAX_REQUEUES)) || fail "$JOB has been requeued $START times, more than MAX_REQUEUES=$MAX_REQUEUES in $CLUSTER_ENV"
}

# Put this job (in an array: this task) back into the queue, unless it was cancelled, its time is over, or Slurm has done so.
requeue() {
    local state
    state=$(squeue --noheader --jobs="$JOB" --format=%T)
    if [[ $state != RUNNING ]]; then
        say "$JOB is ${state:-gone} by Slurm's decision: it is not requeued from here"
    elif ((START >= MAX_REQUEUES)); then
        say "error: $JOB was told to stop and has been requeued $START times, MAX_REQUEUES in $CLUSTER_ENV"
    else
        say "$JOB was told to stop: requeued, for the $((START + 1)). time of at most $MAX_REQUEUES"
        scontrol requeue "$JOB"
    fi
    exit "$EX_TEMPFAIL"
}
