#!/usr/bin/env bash
# Resolve the dependencies again and pin each by hash, for every supported Python at once. Needs `uv`.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet)
"${compile[@]}" requirements/build.in -o requirements/build.txt
"${compile[@]}" pyproject.toml -o requirements/run.txt
"${compile[@]}" pyproject.toml --extra load -o requirements/load.txt
"${compile[@]}" pyproject.toml --extra load --extra dev -o requirements/dev.txt
