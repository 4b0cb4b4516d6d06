#!/bin/sh
# Install the Debian packages of container/packages.txt that the base image does not bring.
# A base that brings them all (container/base.sh) needs no network here.
set -eu
cd "$(dirname "$0")"

missing=
for package in $(grep -v '^#' packages.txt); do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
apt-get update
# shellcheck disable=SC2086 # one word a package
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
rm -rf /var/lib/apt/lists/*
