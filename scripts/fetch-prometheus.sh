#!/usr/bin/env bash
# Unpack Debian's Prometheus into a directory: the tests run it and promtool from there. It is not installed, because an
# installed one is a service that starts by itself. Where promtool is installed already, that one serves.
# Usage: scripts/fetch-prometheus.sh [DIRECTORY]     prints the directory of prometheus and promtool
set -euo pipefail
target=${1:-$(dirname "$0")/../.venv/prometheus}
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
	dirname "$(command -v promtool)"
	exit 0
fi
if [ ! -x "$target/usr/bin/promtool" ]; then
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	chmod 0755 "$scratch" # apt's own user downloads into it
	fetch() { (cd "$scratch" && apt-get download prometheus); }
	{ fetch || { apt-get update && fetch; }; } >"$scratch/log" 2>&1 || {
		tail -n 3 "$scratch/log" >&2
		printf 'autoscaler: apt-get could not download the package prometheus\n' >&2
		exit 1
	}
	mkdir -p "$target"
	dpkg-deb --extract "$scratch"/prometheus_*.deb "$target"
fi
printf '%s/usr/bin\n' "$(cd "$target" && pwd)"
