#!/usr/bin/env bash
# Train on Cloud TPU VMs: create them, set all workers up at once, run, follow the log, start again
# after a preemption or exit code 75, delete them when the run is done.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
launch/tpu_vm.sh --name=NAME --zone=ZONE --topology=v5e:4x4 [option...] -- COMMAND...

COMMAND is what would run on a laptop, `python -m oner_jax.train --config=... --workdir=...`. It is
started on every worker; data and --workdir lie where all of them see them, on gs://BUCKET. The
same command again follows a run that goes on, or continues one that does not.

  --name=NAME            of the queued resource; its nodes are NAME, or NAME-0 ... with slices
  --zone=ZONE            where the TPU is
  --topology=CHIP:SHAPE  v3, v4, v5e, v5p or v6e as oner_jax.plan writes it: v5e:4x4, v5p:4x4x4
  --num_slices=N         so many slices of that shape (multislice)
  --project=PROJECT      default: gcloud's
  --spot                 cheaper, and taken away at any time
  --existing             use the TPU VM called NAME instead of creating one; it is not deleted
  --keep                 do not delete the TPU when the run is done
  --create_flag=FLAG     one more flag for `queued-resources create` (--network=..., --reserved)
  --ssh_flag=FLAG        one more flag for `tpu-vm ssh` and `scp` (--internal-ip)
  --runtime_version=V    default: what Google names for the chip
  --skip_checks=LIST     of plan (before anything is created) and data (on worker 0)
  --stop                 instead: save a checkpoint and end the run; the TPU stays
  --delete               instead: delete the TPU
  --dry-run              print the commands and run none
TEXT
}

NAME='' ZONE='' PROJECT='' TOPOLOGY='' NUM_SLICES=1 RUNTIME='' ACTION=train
SPOT='' EXISTING='' KEEP=''
RESOURCE='' # set while there may be a TPU that this launcher is to delete
CREATE_FLAGS=() SSH_FLAGS=() COMMAND=()
POLL_SECONDS=${POLL_SECONDS:-30} # between looks at a TPU that is not ready

parse() {
  while (($#)); do
    case $1 in
      --name=*) NAME=${1#*=} ;;
      --zone=*) ZONE=${1#*=} ;;
      --project=*) PROJECT=${1#*=} ;;
      --topology=*) TOPOLOGY=${1#*=} ;;
      --num_slices=*) NUM_SLICES=${1#*=} ;;
      --runtime_version=*) RUNTIME=${1#*=} ;;
      --create_flag=*) CREATE_FLAGS+=("${1#*=}") ;;
      --ssh_flag=*) SSH_FLAGS+=("${1#*=}") ;;
      --skip_checks=*) SKIP_CHECKS=${1#*=} ;;
      --spot) SPOT=1 ;;
      --existing) EXISTING=1 ;;
      --keep) KEEP=1 ;;
      --stop | --delete) ACTION=${1#--} ;;
      --dry-run) DRY_RUN=1 ;;
      --help | -h) usage && exit 0 ;;
      --) shift && COMMAND=("$@") && break ;;
      *) die "unknown option $1: see launch/tpu_vm.sh --help" ;;
    esac
    shift
  done
  [[ $NAME ]] || die "--name is missing: how the TPU is to be called"
  [[ $ZONE ]] || die "--zone is missing: for example --zone=us-west4-a"
  [[ $NUM_SLICES =~ ^[1-9][0-9]*$ ]] || die "--num_slices=$NUM_SLICES: a number from 1"
  WHERE=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
  NODES=("$NAME")
  if ((NUM_SLICES > 1)); then
    NODES=()
    for ((slice = 0; slice < NUM_SLICES; slice++)); do NODES+=("$NAME-$slice"); done
  fi
  [[ $ACTION == train ]] || return 0
  [[ $TOPOLOGY ]] || die "--topology is missing: for example --topology=v5e:4x4"
  ((${#COMMAND[@]})) || die "no command: write it after --, as in -- python -m oner_jax.train ..."
}

# Google's names for a chip: the accelerator type, which counts chips or TensorCores, and the image.
name_accelerator() {
  local chip=${TOPOLOGY%%:*} shape=${TOPOLOGY#*:} image
  [[ $shape =~ ^[0-9]+(x[0-9]+)+$ ]] || die "--topology=$TOPOLOGY: write CHIP:SHAPE, as v5e:4x4"
  local chips=$((${shape//x/*}))
  case $chip in
    v3 | v4) ACCELERATOR=$chip-$((2 * chips)) image=tpu-ubuntu2204-base ;;
    v5p) ACCELERATOR=v5p-$((2 * chips)) image=v2-alpha-tpuv5 ;;
    v5e) ACCELERATOR=v5litepod-$chips image=v2-alpha-tpuv5-lite ;;
    v6e) ACCELERATOR=v6e-$chips image=v2-alpha-tpuv6e ;;
    *) die "--topology=$TOPOLOGY: TPU VMs are v3, v4, v5e, v5p and v6e; 7x is on GKE (launch/gke)" ;;
  esac
  RUNTIME=${RUNTIME:-$image}
}

# look KIND NAME FIELD: set STATE, empty where there is no such thing. A dry run sees all is well.
look() {
  local command=("$1" describe "$2" "${WHERE[@]}" "--format=value($3)") errors
  errors=$(mktemp)
  if [[ $DRY_RUN ]]; then
    quote gcloud compute tpus "${command[@]}"
    STATE=ACTIVE
  elif ! STATE=$(gcloud compute tpus "${command[@]}" 2>"$errors"); then
    grep -qi 'not.found' "$errors" || die "cannot look at $2: $(tr '\n' ' ' <"$errors")"
    STATE=''
  fi
  rm -f -- "$errors"
}

create() {
  local flags=("--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME")
  # The shape that is not the default of its size can be asked for by name on v4 alone.
  [[ $TOPOLOGY == v4:* ]] && flags=(--type=v4 "--topology=${TOPOLOGY#*:}" "${flags[1]}")
  if ((NUM_SLICES > 1)); then
    flags+=("--node-count=$NUM_SLICES" "--node-prefix=$NAME")
  else
    flags+=("--node-id=$NAME")
  fi
  [[ $DRY_RUN ]] || RESOURCE=1
  run gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" "${flags[@]}" \
    ${SPOT:+--spot} ${CREATE_FLAGS[@]+"${CREATE_FLAGS[@]}"}
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet
  RESOURCE=''
}

# Until there is a TPU to run on: created where it is missing, anew where it was taken away.
acquire() {
  local before=''
  if [[ $EXISTING ]]; then acquire_existing && return; fi
  if [[ $DRY_RUN ]]; then create; fi
  while :; do
    look queued-resources "$NAME" state.state
    [[ ! $STATE || $DRY_RUN ]] || RESOURCE=1
    case $STATE in
      ACTIVE) return ;;
      '') create ;;
      SUSPENDING | SUSPENDED) say "$NAME was taken away ($STATE); asking for it again" && delete ;;
      FAILED) die "the request for $NAME failed: see gcloud compute tpus queued-resources describe" \
        "$NAME ${WHERE[*]}, then launch/tpu_vm.sh --name=$NAME ${WHERE[*]} --delete" ;;
      *) [[ $STATE == "$before" ]] || say "waiting for $NAME: $STATE" ;;
    esac
    before=$STATE
    sleep "$POLL_SECONDS"
  done
}

acquire_existing() {
  local node
  for node in "${NODES[@]}"; do
    while look tpu-vm "$node" state && [[ $STATE != READY && $STATE != ACTIVE ]]; do
      case $STATE in
        '' | PREEMPTED | TERMINATED | STOPPED | DELETING)
          die "the TPU VM $node is ${STATE:-not there}: start it, or leave --existing out" ;;
        *) say "waiting for $node: $STATE" && sleep "$POLL_SECONDS" ;;
      esac
    done
  done
}

# Whether a TPU that does not answer, or whose run failed, is still there.
is_there() {
  local node
  if [[ ! $EXISTING ]]; then
    look queued-resources "$NAME" state.state
    [[ $STATE == ACTIVE ]] || return 1
  fi
  for node in "${NODES[@]}"; do
    look tpu-vm "$node" state
    [[ $STATE == READY || $DRY_RUN ]] || return 1
  done
}

ssh_to() { # NODE WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$1" "${WHERE[@]}" \
    ${SSH_FLAGS[@]+"${SSH_FLAGS[@]}"} "--worker=$2" "--command=$3"
}

copy_to() { # NODE FILE
  run gcloud compute tpus tpu-vm scp "$2" "$1:oner_jax.tar.gz" "${WHERE[@]}" \
    ${SSH_FLAGS[@]+"${SSH_FLAGS[@]}"} --worker=all
}

# on_every_node WHAT FUNCTION ARGUMENT...: `FUNCTION NODE ARGUMENT...` of all nodes at the same time.
on_every_node() {
  local what=$1 function=$2 node failed='' started=() number=0
  shift 2
  for node in "${NODES[@]}"; do
    if [[ $DRY_RUN ]]; then
      "$function" "$node" "$@"
    else
      "$function" "$node" "$@" >"$LOGS/$what-$node.log" 2>&1 &
      started+=($!)
    fi
  done
  [[ $DRY_RUN ]] && return
  for node in "${NODES[@]}"; do
    wait "${started[number++]}" || failed+=" $node"
  done
  for node in $failed; do
    say "$what failed on $node; the last lines of $LOGS/$what-$node.log:"
    tail -n 15 -- "$LOGS/$what-$node.log" >&2
  done
  [[ ! $failed ]]
}

# The command line of launch/worker.sh on a worker.
worker() { printf 'cd oner_jax && bash launch/worker.sh %s' "$(quote "$@")"; }

# New code in the place of the old, whose environment is kept; not under a run that goes on.
UNPACK='bash oner_jax/launch/worker.sh is_running 2>/dev/null || { rm -rf oner_jax.new &&
mkdir oner_jax.new && tar -xzf oner_jax.tar.gz -C oner_jax.new &&
{ [ ! -d oner_jax/.venv ] || mv oner_jax/.venv oner_jax.new/; } &&
rm -rf oner_jax && mv oner_jax.new oner_jax; }'

# The files of this checkout: what git tracks and what it would track, as it stands, so that
# uncommitted changes go along. Of a download without .git, all but what runs and tools leave here.
pack() {
  ARCHIVE=$LOGS/oner_jax.tar.gz
  local top
  top=$(git -C "$ROOT" rev-parse --show-toplevel 2>/dev/null) || top=''
  if [[ $top && $top -ef $ROOT ]]; then
    (
      cd -- "$ROOT"
      git ls-files -z --cached --others --exclude-standard \
        | while IFS= read -r -d '' file; do [[ ! -f $file ]] || printf '%s\0' "$file"; done \
        | tar --null -I "gzip -1" -cf "$ARCHIVE" -T -
    )
  else
    tar -C "$ROOT" -I "gzip -1" -cf "$ARCHIVE" --exclude=__pycache__ --anchored --exclude='./.venv*' \
      --exclude=./.cache --exclude=./runs --exclude=./data --exclude=./build .
  fi || die "the code in $ROOT cannot be packed; nothing was created"
}

set_up() {
  on_every_node copy copy_to "$ARCHIVE" \
    && on_every_node set-up ssh_to all "${UNPACK//$'\n'/ } && $(worker set_up)"
}

# Training's data, as worker 0 sees them and on the cores that have to keep up.
check_data() {
  [[ ,$SKIP_CHECKS, == *,data,* ]] && return
  ssh_to "${NODES[0]}" 0 "$(worker check "--topology=$TOPOLOGY" -- "${COMMAND[@]}")"
}

# Start everywhere and follow worker 0. Sets CODE: the run's exit code, `stopped`, or `lost`.
train() {
  local line
  on_every_node start ssh_to all "$(worker start "${COMMAND[@]}")" || return 0
  if [[ $DRY_RUN ]]; then
    ssh_to "${NODES[0]}" 0 "$(worker follow)"
    CODE=0
    return
  fi
  while :; do
    while IFS= read -r line; do
      case $line in
        'worker.sh: ended with '*) CODE=${line##* } ;;
        *) printf '%s\n' "$line" ;;
      esac
    done < <(ssh_to "${NODES[0]}" 0 "$(worker follow)")
    [[ $CODE == lost ]] || return 0
    sleep "$POLL_SECONDS"
    is_there || return 0
    say "lost the connection to ${NODES[0]}, which is still there"
  done
}

# Set up, check and train once. Sets CODE, and WHAT that is the exit code of.
attempt() {
  CODE=lost WHAT=training
  if ! set_up; then
    CODE=1 WHAT=set-up
    return
  fi
  local code=0
  check_data || code=$?
  case $code in
    0) train ;;
    255) ;; # ssh's own
    *) CODE=$code WHAT='the check of the data' ;;
  esac
}

fail() {
  say "error: $WHAT ended with exit code $CODE. What worker 0 printed in training:"
  say "    $(quote gcloud compute tpus tpu-vm ssh "${NODES[0]}" "${WHERE[@]}" --worker=0 \
    --command='cat oner_jax.log')"
  exit "$CODE"
}

# However this ends: what was made, or found, and not deleted costs money.
leave() {
  [[ ! $RESOURCE ]] || say "$NAME is still there, as far as is known, and costs money. To delete it:
    launch/tpu_vm.sh --name=$NAME ${WHERE[*]} --delete"
}

main() {
  parse "$@"
  LOGS=$(mktemp -d "${TMPDIR:-/tmp}/tpu_vm-$NAME.XXXXXX")
  case $ACTION in
    delete) delete && exit ;;
    stop) on_every_node stop ssh_to all "$(worker stop)" && exit ;;
  esac
  name_accelerator
  preflight plan "--topology=$TOPOLOGY" "--num_slices=$NUM_SLICES" -- "${COMMAND[@]}" || exit
  pack
  trap leave EXIT
  trap 'say "the run on $NAME goes on: the same command follows it, --stop ends it"; exit 130' INT
  while :; do
    acquire
    attempt
    case $CODE in
      0) break ;;
      75) say "the run was asked to stop and has saved: starting again" ;;
      stopped) say "stopped; the same command continues" && exit 75 ;;
      *)
        # A preemption may show in what it breaks before it shows in the state of the TPU.
        [[ $CODE == lost ]] || sleep "$POLL_SECONDS"
        if ! is_there; then
          say "$NAME was taken away: starting again"
          continue
        fi
        [[ $CODE == lost ]] || fail
        say "the run is gone from $NAME, which is still there: starting again"
        ;;
    esac
    on_every_node end ssh_to all "$(worker end)" || true
  done
  [[ $KEEP || $EXISTING ]] || delete
  RESOURCE=''
  rm -rf -- "$LOGS"
}

main "$@"
