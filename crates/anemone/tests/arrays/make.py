"""Makes the arrays beside it, with NumPy; `src/data/array/tests.rs` knows what is in them."""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main():
    counted = np.arange(6).reshape(2, 3)
    types = {}
    for name in ["i1", "i2", "i4", "i8", "f2", "f4", "f8", ">i2", ">f4", ">f8"]:
        types[name.replace(">", "big_")] = (counted - 2).astype(name)
    for name in ["u1", "u2", "u4", "u8"]:
        types[name] = counted.astype(name)
    types["b1"] = counted % 2 == 1
    types["c8"] = counted.astype("c8")
    types["text"] = counted.astype("U1")
    types["records"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
    types["scalar"] = np.array(7.0)
    types["empty"] = np.zeros((0, 3), "f4")
    np.savez(HERE / "types.npz", **types)
    np.savez_compressed(HERE / "compressed.npz", only=np.arange(1000, dtype="f4") % 7)
    np.save(HERE / "fortran.npy", np.asfortranarray(np.arange(24, dtype="f4").reshape(2, 3, 4)))
    with open(HERE / "version2.npy", "wb") as file:
        np.lib.format.write_array(file, counted.astype("f4"), version=(2, 0))


if __name__ == "__main__":
    main()
