#!/usr/bin/env bash
# What launch/tpu_vm.sh does on each worker, in the folder of the code. The run belongs to no
# connection: it goes on when that ends, and `follow` finds it again.
set -euo pipefail

LOG=$HOME/oner_jax.log
STATE=$HOME/.oner_jax # process (the id), code (the exit code), stopped (if that was asked for)
mkdir -p -- "$STATE"
export PATH=$PWD/.venv/bin:$PATH
GRACE_SECONDS=${GRACE_SECONDS:-60} # for a run that is told to end

# The number of a process may be another's after a reboot.
is_running() {
  [[ -f $STATE/process ]] \
    && grep -qs supervise "/proc/$(<"$STATE/process")/cmdline"
}

# Install into .venv, with a Python of our own where the system's is too old.
set_up() {
  local python
  for python in python3.12 python3.13 python3.11; do
    "$python" -c 'import ensurepip' 2>/dev/null && break
    python=''
  done
  if [[ ! $python ]]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    python=$(python3 -m uv python find 3.12)
  fi
  command -v make >/dev/null || sudo apt-get install -qq -y make
  ACCELERATOR=tpu PYTHON=$python make --silent venv
}

check() { is_running || python -m launch.preflight --checks=data "$@"; }

start() {
  is_running && echo 'worker.sh: a run goes on here' && return
  rm -f -- "$STATE"/*
  [[ ! -f $LOG ]] || mv -- "$LOG" "$LOG.before"
  setsid bash "${BASH_SOURCE[0]}" supervise "$@" </dev/null >"$LOG" 2>&1 &
  echo $! >"$STATE/process"
}

# In the background: the command, and then its exit code.
supervise() {
  local code=0
  trap : TERM # it is meant for the command
  "$@" || code=$?
  echo "$code" >"$STATE/code.partial"
  mv -- "$STATE/code.partial" "$STATE/code"
}

# The log to its end, then the exit code; none where there was no run, or its end was not seen.
follow() {
  [[ -f $STATE/process ]] || return 0
  tail -n +1 -F --pid="$(<"$STATE/process")" -- "$LOG" 2>/dev/null || true
  [[ -f $STATE/code ]] || return 0
  if [[ -f $STATE/stopped ]]; then
    echo 'worker.sh: ended with stopped'
  else
    echo "worker.sh: ended with $(<"$STATE/code")"
  fi
}

# Ask the run to save and end. The supervisor has led its own process group since `setsid`.
stop() {
  is_running || return 0
  touch "$STATE/stopped"
  kill -TERM -- "-$(<"$STATE/process")"
}

# See to it that nothing runs.
end() {
  local waited
  is_running || return 0
  kill -TERM -- "-$(<"$STATE/process")" || true
  for ((waited = 0; waited < GRACE_SECONDS; waited++)); do
    is_running || return 0
    sleep 1
  done
  kill -KILL -- "-$(<"$STATE/process")" || true
}

"$@"
