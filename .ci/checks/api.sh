#!/usr/bin/env bash
# The public API of the libraries is what docs/api/*.txt says: whoever changes it sees the change there, and runs
#
#   .ci/checks/api.sh --write
#
# Types and traits with their public parts, functions, constants and own methods, as rustdoc shows them; of
# implementations of traits nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$(cargo metadata --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
# Pages of what is no more would stay.
rm -rf "$target/doc"
cargo doc --quiet --no-deps -p anemone -p anemone-mil
exec python3 - "$target/doc" "${1:-}" <<'PYTHON'
import difflib, html, pathlib, re, sys

DECLARATION = re.compile(r'<pre class="rust item-decl"><code>(.*?)</code></pre>', re.S)
METHOD = re.compile(r'<section id="(?:method|associatedconstant)\.[^"]*"[^>]*>.*?<h4 class="code-header">(.*?)</h4>', re.S)


def text(code):
    """Code as it reads, without the comments of long declarations."""
    plain = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<details.*?<summary.*?</summary>", "", code, flags=re.S)))
    return re.sub(r"\n\s*\n", "\n", plain).strip()


def api(folder):
    lines = []
    for page in sorted(folder.rglob("*.html")):
        kind, _, _ = page.name.partition(".")
        if kind not in {"struct", "enum", "trait", "fn", "type", "constant", "static", "macro"}:
            continue
        content = page.read_text()
        declarations = DECLARATION.findall(content)
        if not declarations:
            # It only points to where an item has moved.
            continue
        module = "::".join(page.relative_to(folder.parent).parts[:-1])
        lines += [f"# {module}", *(text(d) for d in declarations)]
        own = content.split('id="trait-implementations"')[0].split('id="implementations"')
        if len(own) > 1 and kind != "trait":
            lines += [f"    {text(m)}" for m in METHOD.findall(own[1])]
        lines.append("")
    return "\n".join(lines).splitlines()


wrong = False
for crate in ["anemone", "anemone_mil"]:
    found, kept = api(pathlib.Path(sys.argv[1], crate)), pathlib.Path("docs", "api", f"{crate}.txt")
    if len(found) < 100:
        sys.exit(f"{crate}: {len(found)} lines of API found, which is too few: rustdoc's pages are no longer as they were")
    if sys.argv[2] == "--write":
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("\n".join(found) + "\n")
        continue
    expected = kept.read_text().splitlines() if kept.exists() else []
    difference = list(difflib.unified_diff(expected, found, str(kept), "the API now", lineterm="", n=2))
    print("\n".join(difference))
    wrong |= bool(difference)
if wrong:
    sys.exit("the public API has changed: if that is meant, run `.ci/checks/api.sh --write` and say so in CHANGELOG.md")
PYTHON
