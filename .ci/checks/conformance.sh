#!/usr/bin/env bash
# The op tests of coremltools, run by the reference interpreter.
set -euo pipefail
if [[ -z ${ANEMONE_SHARED:-} ]]; then
    echo "skipped: the op cases are in ../shared, which is not here"
    exit 0
fi
cargo run --release --quiet -p xtask -- conformance "$ANEMONE_SHARED/conformance/op_tests.jsonl"
