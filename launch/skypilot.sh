#!/usr/bin/env bash
# Train on the GPUs of any cloud that SkyPilot reaches, as a managed job: checks the recipe, then
# `sky jobs launch launch/skypilot.yaml`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
launch/skypilot.sh --topology=h100:8 [option...] [SkyPilot's option=value...] -- COMMAND...

COMMAND is what would run on a laptop, `python -m oner_jax.train --config=... --workdir=...`; data and
--workdir lie on storage that all nodes reach. Every other option is that of `sky jobs launch`, written
--name=value: --name=oner --infra=gcp/us-central1. Nodes have eight GPUs, or all where they are fewer.

  --topology=CHIP:COUNT  a100, h100, h200 or b200, all GPUs of the job
  --skip_checks=LIST     of plan and data, which come before the launch
  --dry-run              print the commands and run none
TEXT
}

TOPOLOGY='' SKY=() COMMAND=()
while (($#)); do
  case $1 in
    --topology=*) TOPOLOGY=${1#*=} ;;
    --skip_checks=*) SKIP_CHECKS=${1#*=} ;;
    --dry-run) DRY_RUN=1 ;;
    --help | -h) usage && exit 0 ;;
    --) shift && COMMAND=("$@") && break ;;
    --*) SKY+=("$1") ;;
    *) die "$1 is no option: write SkyPilot's as --name=value, and the command after --" ;;
  esac
  shift
done
((${#COMMAND[@]})) || die "no command: write it after --, as in -- python -m oner_jax.train ..."
COUNT=${TOPOLOGY#*:}
case ${TOPOLOGY%%:*} in
  a100) GPU=A100-80GB ;;
  h100 | h200 | b200) GPU=${TOPOLOGY%%:*} && GPU=${GPU^^} ;;
  *) die "--topology=$TOPOLOGY: write a100, h100, h200 or b200 and how many, as h100:16" ;;
esac
[[ $COUNT =~ ^[1-9][0-9]*$ ]] || die "--topology=$TOPOLOGY: write CHIP:COUNT, as h100:16"
NODE=$((COUNT < 8 ? COUNT : 8))
((COUNT % NODE == 0)) || die "--topology=$TOPOLOGY: more than one node have eight GPUs each"

cd -- "$ROOT"
preflight plan "--topology=$TOPOLOGY" -- "${COMMAND[@]}" || exit
# The nodes' cores are not this machine's, so no rate is asked of these.
preflight data -- "${COMMAND[@]}" || exit
run sky jobs launch "$ROOT/launch/skypilot.yaml" "--gpus=$GPU:$NODE" "--num-nodes=$((COUNT / NODE))" \
  ${SKY[@]+"${SKY[@]}"} --yes "--env=COMMAND=$(quote "${COMMAND[@]}")"
