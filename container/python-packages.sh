#!/bin/sh
# Install the pinned Python packages into the directory TARGET, and remove from there what no service uses.
# Wheels in container/wheels (scripts/image-wheels.sh) are taken as they are, without network; otherwise pip fetches
# what requirements/run.txt pins by hash, and builds libvirt-python here.
# Usage: python-packages.sh TARGET
set -eu
cd "$(dirname "$0")/.."
target=$1
wheels=container/wheels

if ls $wheels/*.whl >/dev/null 2>&1; then
	(cd $wheels && sha256sum --check --quiet SHA256SUMS)
	pip="python3 $(echo $wheels/pip-*.whl)/pip"
else
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		gcc libc6-dev libvirt-dev pkg-config python3-dev python3-pip
	wheels=/tmp/wheels
	pip="python3 -m pip"
	$pip install --no-cache-dir --require-hashes --target /tmp/build-packages -r requirements/build.txt
	PYTHONPATH=/tmp/build-packages $pip wheel --no-cache-dir --no-build-isolation --require-hashes \
		-r requirements/run.txt --wheel-dir $wheels
fi

packages=$(find $wheels -name '*.whl' ! -name 'pip-*')
# shellcheck disable=SC2086 # one word a wheel
$pip install --no-cache-dir --no-index --no-deps --no-compile --target "$target" $packages

cd "$target"
find . -type d -name tests -prune -exec rm -rf {} +
find . -name '*.pyi' -delete
rm -rf bin supervisor supervisor-* # Docker keeps the services running
rm -rf numpy/f2py numpy/distutils numpy/doc numpy/_core/include numpy/_core/lib
rm -rf matplotlib/mpl-data/sample_data matplotlib/mpl-data/fonts/afm matplotlib/mpl-data/fonts/pdfcorefonts
rm -rf PIL/_avif*.so pillow.libs/libavif* # Pillow goes on without this format
# matplotlib needs the names of glyphs; the rest of fontTools is for PDF and PostScript.
find fontTools -mindepth 1 -maxdepth 1 ! -name __init__.py ! -name agl.py ! -name misc -exec rm -rf {} +
find fontTools -name '*.so' -delete
