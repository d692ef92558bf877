#!/usr/bin/env bash
# A weights file of every type that we write, read back by coremltools' own reader.
set -euo pipefail
venv=target/ci/coremltools
if [[ ! -x $venv/bin/python ]]; then
    # Debian keeps venv in a package of its own.
    python3 -m venv "$venv" || { apt-get update && apt-get install -y python3-venv && python3 -m venv "$venv"; }
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check coremltools==9.0
cargo run --release --quiet -p anemone-mil --example weights_of_every_type -- target/ci/weight.bin
"$venv/bin/python" xtask/scripts/check_blobs.py target/ci/weight.bin
