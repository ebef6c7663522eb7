# Sourced by the launchers that are shell scripts: how they speak, run commands, and check first.
# shellcheck shell=bash

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
[[ -x $PYTHON ]] || PYTHON=python3
DRY_RUN=

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 2
}

# The words as one line that a shell reads back unchanged.
quote() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

# Run a command, saying which; with --dry-run print it and do nothing.
run() {
  if [[ $DRY_RUN ]]; then
    quote "$@"
  else
    say "+ $(quote "$@")"
    "$@"
  fi
}

# preflight CHECKS OPTION... -- COMMAND...: launch/preflight.py, less the checks of --skip_checks.
SKIP_CHECKS=
preflight() {
  local checks=() check
  for check in ${1//,/ }; do
    [[ ,$SKIP_CHECKS, == *",$check,"* ]] || checks+=("$check")
  done
  shift
  ((${#checks[@]})) || return 0
  local joined
  joined=$(IFS=,; printf '%s' "${checks[*]}")
  (cd -- "$ROOT" && "$PYTHON" -m launch.preflight "--checks=$joined" \
    ${DRY_RUN:+--dry-run} "$@")
}
