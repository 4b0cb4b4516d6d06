#!/usr/bin/env bash
# Run a command as root: directly, or through sudo. What is there no more needs no command.
set -euo pipefail
[ -x "$1" ] || { printf 'autoscaler: nothing is installed here (%s is missing); run: make up\n' "$1" >&2; exit 0; }
[ "$(id -u)" -eq 0 ] && exec "$@"
command -v sudo >/dev/null || { printf 'autoscaler: %s needs root, and there is no sudo\n' "$*" >&2; exit 1; }
exec sudo --preserve-env=AUTOSCALER_CONFIG "$@"
