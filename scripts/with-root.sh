#!/usr/bin/env bash
# Run a command as root: directly, or through sudo. What is there no more needs no command.
set -euo pipefail
[ -x "$1" ] || { printf 'autoscaler: nothing is installed here (%s is missing); run: make up\n' "$1" >&2; exit 0; }
[ "$(id -u)" -eq 0 ] && exec "$@"
command -v sudo >/dev/null || { printf 'autoscaler: %s needs root, and there is no sudo\n' "$*" >&2; exit 1; }
# Beside the configuration's place: what docker-compose.yml and Docker's own commands read.
keep=PREFIX,DESTDIR,AUTOSCALER_CONFIG,DOCKER_HOST,COMPOSE_PROJECT_NAME,PIP_INDEX_URL
for name in BASE IMAGE UID GID HEALTH_INTERVAL; do keep+=,LIBVIRT_AUTOSCALER_$name; done
for name in $(compgen -e AUTOSCALER_); do keep+=,$name; done # those that set keys of the configuration
exec sudo --preserve-env="$keep" "$@"
