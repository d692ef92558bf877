#!/usr/bin/env bash
# Reports of real runs in a real browser: no message on its console, curves drawn, both themes, nothing that is too
# wide for a phone. Screenshots are left in target/ci/report.
set -euo pipefail
if ! command -v chromium >/dev/null; then
    apt-get install -y chromium || { apt-get update && apt-get install -y chromium; }
fi
out=target/ci/report
rm -rf "$out"
mkdir -p "$out"
anemone() { cargo run --release --quiet -p anemone-cli -- "$@"; }

anemone train tiny --run-dir "$out/tiny" --quiet >/dev/null
anemone train digits --steps 400 --eval-every 25 --run-dir "$out/digits" --quiet >/dev/null
# A run of 100,000 steps, as long ones are, with two spikes and a loss that is not finite.
mkdir "$out/long"
python3 - "$out" <<'PYTHON'
import json, math, sys
folder = sys.argv[1]
lines = open(f"{folder}/digits/metrics.jsonl").read().splitlines()
lines = [json.loads(line) for line in lines]
for line in lines:
    line.pop("validation", None)
    line.pop("compiled", None)
with open(f"{folder}/long/metrics.jsonl", "w") as log:
    for step in range(100_000):
        line = dict(lines[step % len(lines)], step=step, update=step + 1, time_us=lines[0]["time_us"] + 1000 * step)
        line["loss"] = 2 * math.exp(-step / 2e4) + 0.1 * (step * 7919 % 101) / 101
        if step in (31_234, 70_001):
            line["loss"] = 50.0
        if step == 50_000:
            line["loss"] = None
        log.write(json.dumps(line) + "\n")
PYTHON
cp "$out/digits/config.toml" "$out/long/"

for run in tiny digits long; do
    anemone report "$out/$run"
done
anemone report "$out/digits" "$out/tiny" --out "$out/compared/report.html"
anemone report "$out/tiny" --text
anemone report "$out/tiny" --json >"$out/tiny.json"
timeout 300 python3 .ci/checks/report.py "$out" "$out"/{tiny,digits,long}/report/report.html "$out/compared/report.html"
