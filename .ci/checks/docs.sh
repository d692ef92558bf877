#!/usr/bin/env bash
# What the README and the book tell to type works: each block fenced as `sh` is run, those of one file one after the
# other in a folder of their own, with the release binary. Fences may say more:
#
#   sh,short   trainings that say no `--steps` get 40, because a whole run takes minutes
#   sh,fails   its last command ends with exit code 1, and is there to show that
#   sh,skip    not run: needs a Mac, a terminal or the repository, as the text says
#
# `.ci/checks/docs.sh FOLDER` takes the `anemone` of that folder instead of building one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if (($# > 0)); then
    binaries=$(realpath "$1")
else
    cargo build --release --quiet -p anemone-cli
    binaries=$PWD/target/release
fi
exec python3 - "$binaries" <<'PYTHON'
import os, pathlib, re, subprocess, sys, tempfile, time

FENCE = re.compile(r"^```(sh[^\n]*)\n(.*?)^```$", re.M | re.S)
deadline, n_run, n_skipped = time.time() + 180, 0, 0
for page in [pathlib.Path("README.md"), *sorted(pathlib.Path("docs").glob("*.md"))]:
    text = page.read_text()
    with tempfile.TemporaryDirectory() as scratch:
        # What `anemone doctor` remembers stays in the folder; the browser only looks whether there is something to show.
        browser = pathlib.Path(scratch, "bin", "xdg-open")
        browser.parent.mkdir()
        browser.write_text('#!/bin/sh\ntest -s "$1"\n')
        browser.chmod(0o755)
        path = f"{browser.parent}:{sys.argv[1]}:{os.environ['PATH']}"
        folder = pathlib.Path(scratch, "work")
        folder.mkdir()
        for match in FENCE.finditer(text):
            marks, script = match[1].split(",")[1:], match[2]
            where = f"{page}:{text[:match.start()].count(chr(10)) + 1}"
            if unknown := set(marks) - {"skip", "fails", "short"}:
                sys.exit(f"{where}: the fence says `{unknown.pop()}`, expected `skip`, `fails` or `short`")
            if "skip" in marks:
                n_skipped += 1
                continue
            if "short" in marks:
                script = re.sub(r"^anemone train(?!.*--(?:steps|plan|print-config))", r"\g<0> --steps 40", script, flags=re.M)
            begun = time.time()
            try:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**os.environ, "PATH": path, "HOME": scratch},
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    timeout=max(1, deadline - begun),
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                sys.exit(f"{where}: all blocks together take more than three minutes: give this one fewer steps\n{script}")
            if done.returncode != (expected := int("fails" in marks)):
                sys.exit(f"{where}: exit code {done.returncode}, expected {expected}, from\n{script}{done.stdout}")
            n_run += 1
            print(f"{where}: {time.time() - begun:.1f} s")
print(f"{n_run} blocks run, {n_skipped} skipped")
PYTHON
