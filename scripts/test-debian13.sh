#!/usr/bin/env bash
# Run the fast tests on Debian 13, whatever this machine runs: mmdebstrap makes a Debian 13 in build/debian13 of this
# clone, a copy of the project goes into it, and `make test-fast` runs there, on this machine's kernel and network.
# It needs root and 2.5 GB: of memory where that much can be spared (a tmpfs is quicker made and removed), else of disk. At
# the end, also when it is interrupted, the directory and all that ran in it are gone: mounts and processes are in
# namespaces of their own, and end with their first process. Nothing is kept for the next run.
# The Debian mirror, apt's settings for the network, the certificates and pip's settings are those of this machine.
# Usage: scripts/test-debian13.sh [COMMAND...]      another command to run there, in the project's directory
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/build/debian13

fail() { printf 'autoscaler: %s\n' "$1" >&2; exit 1; }
say() { printf '\033[1m==>\033[0m %s (after %d s)\n' "$1" "$SECONDS"; }

make_debian() {
	local mirror options=() option
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
	while read -r option; do options+=(--aptopt="$option"); done \
		< <(apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)\S* ".+";$')
	# shellcheck disable=SC2086 # no mirror is known to apt: mmdebstrap takes Debian's own
	mmdebstrap --quiet --variant=important --dpkgopt=force-unsafe-io "${options[@]}" \
		--include=ca-certificates,make,python3,python3-venv trixie "$root" $mirror
}

# The settings of pip, and the local directories that they name: where packages come from is this machine's business.
take_over_settings() {
	local one target
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	for one in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/xdg/pip "$HOME/.config/pip" "$HOME/.pip"; do
		[ -e "$one" ] || continue
		target=$root${one/#"$HOME"//root}
		mkdir -p "${target%/*}"
		cp -LRT "$one" "$target"
	done
	for one in $(.venv/bin/python -m pip config list 2>/dev/null | grep -oE "/[^ '\"]+" | sed 's,^//*,/,'); do
		[ -d "$one" ] && [ ! -e "$root$one" ] || continue
		target=/$(cut -d / -f 2 <<<"$one") # all of /opt, say: an index points beside itself
		[ -z "$(ls -A "$root$target" 2>/dev/null)" ] || target=$one
		mkdir -p "$root$target"
		mount -o bind,ro "$target" "$root$target"
	done
}

# In namespaces of our own: whatever is mounted or started here ends with this process.
inside() {
	mount --make-rprivate /
	mkdir "$root"
	[ "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)" -lt 6000000 ] || mount -t tmpfs -o mode=0755 tmpfs "$root"
	say "making a Debian 13 in $root"
	make_debian
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no package starts a service: the network is this machine's
	chmod 0755 "$root/usr/sbin/policy-rc.d"
	take_over_settings
	mkdir "$root/root/project"
	tar --create --exclude-vcs --exclude=./build --exclude=./guest_image/build --exclude=./.venv --exclude='.*_cache' \
		--exclude=__pycache__ . | tar --extract --no-same-owner --directory "$root/root/project"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/run"
	local keep=() name
	for name in $(compgen -e | grep -E '^(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE$|CI$)|_(proxy|PROXY)$'); do
		keep+=("$name=${!name}")
	done
	say "in Debian 13: $*"
	env -i "${keep[@]}" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
		chroot "$root" sh -c 'cd /root/project && exec "$@"' - "$@"
	say "done: $*"
}

if [ "${1:-}" = --inside ]; then
	shift
	inside "$@"
	exit
fi

# unshare ends only when all of its namespace is gone: nothing writes into the directory after that.
clean_up() {
	trap '' INT TERM HUP # make and a terminal send them twice
	local first=
	if [ -n "$child" ]; then
		read -r first _ <"/proc/$child/task/$child/children" || true
		kill -KILL "${first:-$child}" || true
		wait "$child" || true
	fi 2>/dev/null
	rm -rf --one-file-system "$root"
	rmdir --ignore-fail-on-non-empty build
}

[ "$(id -u)" -eq 0 ] || fail "this needs root, to make a Debian 13 directory and to enter it"
command -v mmdebstrap >/dev/null && [ -x .venv/bin/python ] || fail "not all is installed here; run: make test-debian13"
mkdir -p build
exec {lock}<build
flock --nonblock "$lock" || fail "another run of this is at work in $root"
child=
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
rm -rf --one-file-system "$root" # of a run that was killed
[ $# -gt 0 ] || set -- make test-fast
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc "$0" --inside "$@" {lock}>&- &
child=$!
wait "$child" && status=0 || status=$?
child=
exit "$status"
