#!/usr/bin/env bash
# Make a base image without a registry: Debian 12 from any Debian mirror, with the packages of container/packages.txt.
# Then: LIBVIRT_AUTOSCALER_BASE=TAG make up RUNTIME=compose
# Usage: container/base.sh [TAG]
set -euo pipefail
cd "$(dirname "$0")"
tag=${1:-libvirt-autoscaler-base:bookworm}
command -v mmdebstrap >/dev/null || { echo "mmdebstrap is missing: apt-get install mmdebstrap" >&2; exit 1; }

packages=$(grep -v '^#' packages.txt | paste -sd,)
options=(--quiet --variant=apt "--include=$packages,usr-is-merged")
for directory in doc man locale; do
	options+=("--dpkgopt=path-exclude=/usr/share/$directory/*")
done
# It has merged /usr already; the package that would do it has brought all of Perl.
# shellcheck disable=SC2016 # mmdebstrap's own shell expands it
options+=('--customize-hook=chroot "$1" apt-get purge -y --autoremove usrmerge perl "perl-modules-*" "libperl5*"')
mmdebstrap "${options[@]}" bookworm - | docker import --change 'CMD ["/bin/sh"]' - "$tag"
