#!/usr/bin/env bash
# Fetch the pinned Python packages as wheels into container/wheels, checked against their hashes; the image is then
# built without a package index. Runs where pip reaches its index, on the same Debian release as the image.
# `scripts/image-wheels.sh --remove` lets the image's own build fetch them again.
set -euo pipefail
cd "$(dirname "$0")/.."
target=container/wheels
rm -f $target/*.whl $target/SHA256SUMS
[ "${1:-}" = --remove ] && exit 0

.venv/bin/python -m pip --disable-pip-version-check --quiet wheel --require-hashes --no-build-isolation \
	-r requirements/run.txt --wheel-dir $target
cp /usr/share/python-wheels/pip-*.whl $target/ # Debian's own pip installs them in the image's build
cd $target
sha256sum -- *.whl ../../requirements/run.txt >SHA256SUMS # wheels of other requirements are refused
printf '%s wheels, %s\n' "$(ls -- *.whl | wc -l)" "$(du -sh . | cut -f1)"
