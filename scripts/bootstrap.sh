#!/usr/bin/env bash
# Bring a Debian 12, Debian 13 or Ubuntu 24.04 machine to the point where the project's own command can take over:
# system packages (only those that are missing) and a virtual environment with hash-pinned packages.
# Usage: scripts/bootstrap.sh run|load|dev
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-run}

fail() { printf 'autoscaler: %s\n' "$1" >&2; exit 1; }
say() { printf '\033[1m==>\033[0m %s\n' "$1"; }

case $profile in run | load | dev) ;; *) fail "unknown profile '$profile'; allowed: run, load, dev" ;; esac
[ "$(uname -s)" = Linux ] || fail "this needs Linux with libvirt; this machine runs $(uname -s)"
[ "$(uname -m)" = x86_64 ] || fail "the demo guest needs an x86_64 machine; this one is $(uname -m)"

packages=(libvirt-daemon-system libvirt-clients libvirt-dev qemu-system-x86 qemu-utils haproxy mmdebstrap dnsmasq-base
	iproute2 nftables pkg-config gcc libc6-dev make xz-utils zstd lz4 util-linux
	python3 python3-dev python3-venv python3-tk)
[ "$profile" = dev ] && packages+=(xvfb xdotool imagemagick curl cpio openssl systemd dbus polkitd groff-base debian-archive-keyring)

# Containers: what is there is taken, Debian's own packages otherwise. The tests need an engine to start themselves.
has_compose() { command -v docker-compose || docker compose version; }
if [ "$profile" = dev ]; then
	command -v dockerd >/dev/null || packages+=(docker.io)
fi
if [ "$profile" = dev ] || [ "${RUNTIME:-native}" = compose ]; then
	command -v docker >/dev/null || packages+=(docker.io)
	has_compose >/dev/null 2>&1 || packages+=(docker-compose)
fi

missing=()
for package in "${packages[@]}"; do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || fail "apt-get is missing: install by hand: ${missing[*]}"
	say "installing ${#missing[@]} packages: ${missing[*]}"
	as_root=()
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || fail "not root and no sudo; as root: apt-get install ${missing[*]}"
		as_root=(sudo)
	fi
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	if ! { "${as_root[@]}" apt-get update &&
		"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
		>"$log" 2>&1; then
		tail -n 15 "$log" >&2
		fail "apt-get could not install the packages above"
	fi
fi

# Where no udev has set it, only root may open /dev/kvm, and libvirt then probes QEMU anew at every define: 20 s each.
if [ "$(id -u)" -eq 0 ] && [ -c /dev/kvm ] && getent group kvm >/dev/null && [ "$(stat -c %G:%a /dev/kvm)" = root:600 ]; then
	chgrp kvm /dev/kvm
	chmod 0660 /dev/kvm
fi

/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
	fail "Python 3.11 or later is needed; /usr/bin/python3 is $(/usr/bin/python3 -V 2>&1)"

fetch_prometheus() {
	scripts/fetch-prometheus.sh >/dev/null || say "without Prometheus: the tests of metrics skip themselves"
}

# A profile contains those before it, so an environment made for `dev` serves `run` too.
stamp=.venv/.installed
want=$(cat requirements/build.txt "requirements/$profile.txt" pyproject.toml | sha256sum | cut -c1-16)
if grep -qsx "$profile $want" "$stamp"; then
	[ "$profile" = dev ] && fetch_prometheus
	exit 0
fi

if [ ! -x .venv/bin/python ]; then
	say "making the virtual environment .venv"
	/usr/bin/python3 -m venv .venv
fi
say "installing the Python packages ($profile), pinned by hash"
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes -r requirements/build.txt
# libvirt-python is built here against this machine's libvirt; nothing is fetched beside the pinned files.
"${pip[@]}" install --require-hashes --no-build-isolation -r "requirements/$profile.txt"
"${pip[@]}" install --no-build-isolation --no-deps -e .
case $profile in
run) done_profiles=(run) ;;
load) done_profiles=(run load) ;;
dev) done_profiles=(run load dev) ;;
esac
: >"$stamp.new"
for name in "${done_profiles[@]}"; do
	printf '%s %s\n' "$name" "$(cat requirements/build.txt "requirements/$name.txt" pyproject.toml | sha256sum | cut -c1-16)" >>"$stamp.new"
done
mv "$stamp.new" "$stamp"
[ "$profile" = dev ] && fetch_prometheus
exit 0
