"""Makes digits-images.idx.gz and digits-labels.idx.gz from the data set of handwritten digits in scikit-learn."""

import gzip
import struct
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def idx(array):
    """An array of bytes as an IDX file, compressed without a time so that the same array gives the same file."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), 9, mtime=0)


def main():
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8) and (digits.images == digits.images.astype(np.uint8)).all()
    for name, array in [("images", digits.images), ("labels", digits.target)]:
        out = Path(__file__).with_name(f"digits-{name}.idx.gz")
        out.write_bytes(idx(array))
        print(f"{out.name}: {array.shape}, {array.min():.0f} to {array.max():.0f}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
