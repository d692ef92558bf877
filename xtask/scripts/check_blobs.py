"""Compares a weights file with what coremltools' own reader and writer make of it.

    pip install coremltools
    cargo run -p anemone-mil --example weights_of_every_type -- weight.bin
    python xtask/scripts/check_blobs.py weight.bin

Each record of a type that coremltools gives access to is read with coremltools and written into a new file with
coremltools; metadata and data must be the same, byte for byte. The types it has no access to (bf16 and the 8-bit
floats) are counted as unchecked.
"""

import logging
import os
import struct
import sys
import tempfile

logging.disable(logging.CRITICAL)  # coremltools warns of the libraries that only macOS has

from coremltools import libmilstoragepython as storage  # noqa: E402

TYPES = {
    1: "fp16", 2: "float", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
    10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip
BLOCK = 64


def next_block(at):
    return (at + BLOCK - 1) // BLOCK * BLOCK


def check(path):
    with open(path, "rb") as f:
        ours = f.read()
    count, version = struct.unpack_from("<II", ours)
    assert version == 2 and not any(ours[8:BLOCK]), "header"
    reader = storage._BlobStorageReader(path)
    at, end, n_checked, unchecked = BLOCK, BLOCK, 0, set()
    for _ in range(count):
        sentinel, code, size, offset, padding = struct.unpack_from("<IIQQQ", ours, at)
        assert sentinel == 0xDEADBEEF and offset == at + BLOCK, f"record at {at}"
        if code in TYPES:
            name = TYPES[code]
            values = getattr(reader, f"read_{name}_data")(at)
            with tempfile.TemporaryDirectory() as folder:
                theirs_path = os.path.join(folder, "weight.bin")
                writer = storage._BlobStorageWriter(theirs_path)
                theirs_at = getattr(writer, f"write_{name}_data")(values)
                del writer
                with open(theirs_path, "rb") as f:
                    theirs = f.read()
            t_sentinel, t_code, t_size, t_offset, t_padding = struct.unpack_from("<IIQQQ", theirs, theirs_at)
            assert (sentinel, code, size, padding) == (t_sentinel, t_code, t_size, t_padding), f"record at {at}"
            assert ours[at + 32 : at + BLOCK] == theirs[theirs_at + 32 : theirs_at + BLOCK], f"reserved of {at}"
            assert ours[offset : offset + size] == theirs[t_offset:], f"data of the {name} record at {at}"
            n_checked += 1
        else:
            unchecked.add(code)
        end = offset + size
        at = next_block(end)
        assert not any(ours[end:at]), f"gap at {end}"
    assert end == len(ours), f"{len(ours) - end} bytes behind the last record"
    print(f"{path}: {n_checked} of {count} records as coremltools writes them; unchecked types: {sorted(unchecked)}")
    assert n_checked > 0, "no record was checked"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        check(path)
