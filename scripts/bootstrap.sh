#!/usr/bin/env bash
# Bring a Debian 12, Debian 13 or Ubuntu 24.04 machine to the point where the project's own command can take over:
# system packages (only those that are missing) and a virtual environment with hash-pinned packages. The environment is
# made aside and renamed, so there is a whole one or none; it belongs to this place and this Python, by its stamp.
# Usage: scripts/bootstrap.sh run|load|dev
set -euo pipefail
umask 022 # the services' accounts read what is made here
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE
cd "$(dirname "$0")/.."
place=$(pwd -P)
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

exec 9<scripts/bootstrap.sh
flock -n 9 || { say "another make prepares this directory: waiting for it"; flock 9; }

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
	# 9>&-: a daemon that a package starts would hold the lock for ever
	if ! { "${as_root[@]}" apt-get update &&
		"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
		>"$log" 2>&1 9>&-; then
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
fingerprint() { cat requirements/build.txt "requirements/$1.txt" pyproject.toml | sha256sum | cut -c1-16; }
made="made at $place with $(/usr/bin/python3 -I -c 'import os, sys; print(sys.implementation.cache_tag, os.path.realpath(sys.executable))')"
is_ours() { [ -x .venv/bin/python ] && { grep -qsxF "$made" "$stamp" || is_former; }; }
is_former() { # release 0.1.0 did not write down where it was made
	[ -e "$stamp" ] && ! grep -q '^made at ' "$stamp" && grep -qsxF "#!$place/.venv/bin/python" .venv/bin/pip &&
		[ -d ".venv/lib/$(/usr/bin/python3 -I -c 'import sys; print("python%d.%d" % sys.version_info[:2])')" ]
}
if grep -qsxF "$made" "$stamp" && [ -x .venv/bin/python ] && grep -qsx "$profile $(fingerprint "$profile")" "$stamp"; then
	[ "$profile" = dev ] && fetch_prometheus
	exit 0
fi

fresh=.venv.new
rm -rf "$fresh" .venv.old
trap 'rm -rf "$fresh"' EXIT
has_profile() { grep -qsx "$1 $(fingerprint "$1")" "$fresh/.installed"; }
if is_ours; then
	cp -a .venv "$fresh" # with the packages that are there already
else
	[ -e .venv ] && say ".venv is not whole, or was made elsewhere or with another Python: it is made anew"
	say "making the virtual environment .venv"
	/usr/bin/python3 -I -m venv "$fresh"
fi
say "installing the Python packages ($profile), pinned by hash"
pip=("$fresh/bin/python" -I -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes -r requirements/build.txt
# libvirt-python is built here against this machine's libvirt; nothing is fetched beside the pinned files.
"${pip[@]}" install --require-hashes --no-build-isolation -r "requirements/$profile.txt"

# The program is the tree that .venv is in, wherever that is moved or copied: a copy must not run the other one's code.
site=$("$fresh/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site"/__editable__*libvirt_autoscaler* "$site"/libvirt_autoscaler-* # of 0.1.0: names the tree it was made in
printf '../../../..\n' >"$site/libvirt_autoscaler.pth"
cat >"$fresh/bin/autoscaler" <<'LAUNCHER'
#!/bin/sh
# Isolated (-I): no variable and no directory puts another package in the place of ours.
exec "$(dirname "$(readlink -f "$0")")/python" -IB -m cli "$@"
LAUNCHER
chmod 0755 "$fresh/bin/autoscaler"
"$fresh/bin/python" -I - "$place/$fresh" "$place/.venv" "$fresh/pyvenv.cfg" "$fresh"/bin/* <<'RENAMED'
import sys
from pathlib import Path

old, new, *files = sys.argv[1:]
for path in map(Path, files):
    text = b"" if path.is_symlink() or not path.is_file() else path.read_bytes()
    if old.encode() in text and b"\0" not in text:
        path.write_bytes(text.replace(old.encode(), new.encode()))
RENAMED

case $profile in
run) done_profiles=(run) ;;
load) done_profiles=(run load) ;;
dev) done_profiles=(run load dev) ;;
esac
for name in run load dev; do has_profile "$name" && done_profiles+=("$name"); done
{
	printf '%s\n' "$made"
	for name in "${done_profiles[@]}"; do printf '%s %s\n' "$name" "$(fingerprint "$name")"; done | sort -u
} >"$fresh/.installed.new"
mv "$fresh/.installed.new" "$fresh/.installed"
trap '' INT TERM HUP # both renames, or none
[ -e .venv ] && mv .venv .venv.old
mv "$fresh" .venv
trap - INT TERM HUP
rm -rf .venv.old
[ "$profile" = dev ] && fetch_prometheus
exit 0
