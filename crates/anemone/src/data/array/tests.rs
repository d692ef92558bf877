//! Arrays from files as they should be, and from files as they should not.

use super::*;
use std::io::Write;

/// The path of an array that NumPy made, by `tests/arrays/make.py`.
fn fixture(name: &str) -> String {
    format!("{}/tests/arrays/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn npy(header: &str, elements: &[u8]) -> Vec<u8> {
    let mut bytes = npy::MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(elements);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Reads bytes as a file of that name.
fn read(name: &str, bytes: &[u8]) -> Result<Array> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Array::read(path.to_str().unwrap(), true)
}

const IDX: [u8; 14] = [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 7, 255];

#[test]
fn every_type_numpy_writes_is_read() {
    for name in ["i1", "i2", "i4", "i8", "f2", "f4", "f8", "big_i2", "big_f4", "big_f8"] {
        let array = Array::read(&fixture(&format!("types.npz#{name}")), true).unwrap();
        assert_eq!(
            (&array.shape[..], &array.values[..]),
            (&[2, 3][..], &[-2., -1., 0., 1., 2., 3.][..]),
            "{name}"
        );
    }
    for name in ["u1", "u2", "u4", "u8"] {
        let array = Array::read(&fixture(&format!("types.npz#{name}")), true).unwrap();
        assert_eq!(array.values, [0., 1., 2., 3., 4., 5.], "{name}");
    }
    assert_eq!(Array::read(&fixture("types.npz#b1"), true).unwrap().values, [0., 1., 0., 1., 0., 1.]);
    let scalar = Array::read(&fixture("types.npz#scalar"), true).unwrap();
    assert_eq!((scalar.shape.len(), &scalar.values[..]), (0, &[7.0][..]));
    assert_eq!(Array::read(&fixture("types.npz#empty"), true).unwrap().shape, [0, 3]);
    for name in ["c8", "text", "records"] {
        let e = Array::read(&fixture(&format!("types.npz#{name}")), true).unwrap_err().to_string();
        assert!(e.contains("expected real numbers"), "{name}: {e}");
    }
}

#[test]
fn both_orders_and_both_ways_of_packing_are_read() {
    let counted = |n: u8| (0..n).map(f32::from).collect::<Vec<_>>();
    let fortran = Array::read(&fixture("fortran.npy"), true).unwrap();
    assert_eq!((&fortran.shape[..], fortran.values), (&[2, 3, 4][..], counted(24)));
    // That the fixture tests the order: its elements do not stand in it.
    let bytes = std::fs::read(fixture("fortran.npy")).unwrap();
    assert!(bytes[..128].windows(21).any(|w| w == b"'fortran_order': True"));
    assert_eq!(Array::read(&fixture("version2.npy"), true).unwrap().values, counted(6));
    let compressed = Array::read(&fixture("compressed.npz"), true).unwrap();
    assert_eq!(compressed.values[..9], [0., 1., 2., 3., 4., 5., 6., 0., 1.]);
    assert_eq!(compressed.values.len(), 1000);
    let expected = Array::read(&fixture("version2.npy"), true).unwrap().values;
    let packed = gzip(&std::fs::read(fixture("version2.npy")).unwrap());
    assert_eq!(read("a.npy.gz", &packed).unwrap().values, expected);
}

#[test]
fn idx_is_big_endian() {
    let array = read("images-idx2-ubyte", &IDX).unwrap();
    assert_eq!((&array.shape[..], &array.values[..]), (&[1, 2][..], &[7.0, 255.0][..]));
    assert_eq!(read("images.gz", &gzip(&IDX)).unwrap().values, array.values);
    for (code, element, expected) in [
        (0x09, &[0xff][..], -1.0),
        (0x0b, &[0xff, 0xfe], -2.0),
        (0x0c, &[0, 0, 1, 0], 256.0),
        (0x0d, &[0x3f, 0x80, 0, 0], 1.0),
        (0x0e, &[0x3f, 0xf0, 0, 0, 0, 0, 0, 0], 1.0),
    ] {
        let bytes = [&[0, 0, code, 1, 0, 0, 0, 1], element].concat();
        assert_eq!(read("x", &bytes).unwrap().values, [expected], "{code}");
    }
}

#[test]
fn csv_has_columns() {
    let text = b"width, class ,height\n1.5,0,-2\n3e1,2, 4\n";
    let array = read("a.csv", text).unwrap();
    assert_eq!(array.values, [1.5, 0.0, -2.0, 30.0, 2.0, 4.0]);
    for column in ["class", "1"] {
        let (rest, taken) = array.clone().take_column(column).unwrap();
        assert_eq!((&taken.shape[..], &taken.values[..]), (&[2][..], &[0.0, 2.0][..]));
        assert_eq!((&rest.shape[..], &rest.values[..]), (&[2, 2][..], &[1.5, -2.0, 30.0, 4.0][..]));
        assert_eq!(rest.columns.unwrap(), ["width", "height"]);
    }
    for column in ["weight", "3", "-1", ""] {
        let e = array.clone().take_column(column).unwrap_err().to_string();
        assert!(e.contains("expected one of width, class, height"), "{e}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    std::fs::write(&path, "1,2\n3,4\n").unwrap();
    let array = Array::read(path.to_str().unwrap(), false).unwrap();
    assert_eq!((&array.shape[..], array.columns), (&[2, 2][..], None));
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    let good = npy(header, &[0; 8]);
    assert_eq!(read("a.npy", &good).unwrap().shape, [2]);
    let with = |from: &str, to: &str| npy(&header.replace(from, to), &[0; 8]);
    let digits = |n: usize| vec![b'1'; n];
    let mut later = good.clone();
    later[6] = 4;
    let zip = std::fs::read(fixture("types.npz")).unwrap();
    let mut corrupt = std::fs::read(fixture("compressed.npz")).unwrap();
    let middle = corrupt.len() / 2 - 30;
    corrupt[middle] ^= 0xff;
    let mut long = vec![0, 0, 0x0e, 255];
    long.extend([255; 4 * 255]);
    for (name, bytes, named) in [
        ("a.npy", vec![], "the file is empty"),
        ("a.csv", vec![], "the file is empty"),
        ("a.txt", b"1,2\n".to_vec(), "the format is not known"),
        ("a.npy", good[..6].to_vec(), "no magic number and version"),
        ("a.npy", good[..9].to_vec(), "ends in its header"),
        ("a.npy", good[..30].to_vec(), "ends in its header"),
        ("a.npy", good[..good.len() - 1].to_vec(), "7 bytes of elements, expected 8"),
        ("a.npy", [&good[..], &[0]].concat(), "9 bytes of elements, expected 8"),
        ("a.npy", later, "version 4, expected 1, 2 or 3"),
        ("a.npy", with("(2,)", "(2305843009213693952, 8)"), "more elements than there are numbers"),
        ("a.npy", with("(2,)", "(4611686018427387904,)"), "expected more than there can be"),
        ("a.npy", with("(2,)", "(99999999999999999999,)"), "expected a size"),
        ("a.npy", with("(2,)", "(-2,)"), "`-2` in the shape"),
        ("a.npy", with("(2,)", "2"), "the shape is no tuple"),
        ("a.npy", with("'shape'", "'form'"), "no `shape`"),
        ("a.npy", with("<f4", "<f3"), "elements are `<f3`"),
        ("a.npy", with("'<f4'", "[('a', '<f4')]"), "elements are `records`"),
        ("a.npy", with("False", "0"), "`fortran_order` is"),
        ("a.npy", npy(&"(".repeat(60_000), &[]), "no `descr`"),
        ("a.npz", zip[..zip.len() / 2].to_vec(), "npz: "),
        ("a.npz", zip.clone(), "no array is named, expected `#` and one of"),
        ("a.npz", corrupt, "npz: array `only`"),
        ("x", vec![0, 0], "no header"),
        ("x", vec![0, 0, 7, 1, 0, 0, 0, 1, 5], "element type 0x07"),
        ("x", IDX[..11].to_vec(), "ends in the sizes of its 2 dimensions"),
        ("x", IDX[..13].to_vec(), "1 bytes of elements, expected 2"),
        ("x", [&IDX[..], &[1]].concat(), "3 bytes of elements, expected 2"),
        ("x", long, "more elements than there are numbers"),
        ("x.gz", gzip(&IDX[..13]), "1 bytes of elements, expected 2"),
        ("x.gz", gzip(&IDX)[..20].to_vec(), "gzip: "),
        ("a.csv", b"a,b\n".to_vec(), "there are no rows"),
        ("a.csv", b"a,b\n1,2\n3\n".to_vec(), "line: 3"),
        ("a.csv", b"a,b\n1,2\n3,x\n".to_vec(), "line 3, column 1: `x`, expected a finite number"),
        ("a.csv", b"a,b\n1,NaN\n".to_vec(), "line 2, column 1: `NaN`"),
        ("a.csv", b"a,b\n-inf,1\n".to_vec(), "line 2, column 0: `-inf`"),
        ("a.csv", b"a,b\n1e39,1\n".to_vec(), "line 2, column 0: `1e39`"),
        ("a.csv", b"a,b\n,1\n".to_vec(), "line 2, column 0: ``"),
        ("a.csv", b"a,b\n\xff,1\n".to_vec(), "invalid"),
        ("a.csv", digits(50), "there are no rows"),
    ] {
        let e = read(name, &bytes).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(named) && e.contains("read `"), "expected {named}: {e}");
    }
    for (path, named) in
        [("types.npz#i3", "there is no array `i3`, expected `#` and one of i1, i2"), ("no such file", "open `")]
    {
        let e = Array::read(&fixture(path), true).unwrap_err().to_string();
        assert!(e.contains(named), "{e}");
    }
}

#[test]
fn no_byte_of_a_file_can_end_the_process() {
    let mut n_errors = 0;
    for name in ["types.npz#f4", "compressed.npz", "fortran.npy", "version2.npy", "idx", "gz", "a.csv"] {
        let (file, member) = name.split_once('#').map_or((name, None), |(file, member)| (file, Some(member)));
        let bytes = match file {
            "idx" => IDX.to_vec(),
            "gz" => gzip(&IDX),
            "a.csv" => b"a,\"b\"\n1,2\n-3e4,.5\n".to_vec(),
            file => std::fs::read(fixture(file)).unwrap(),
        };
        let read = |bytes: &[u8]| match file {
            "gz" => gunzip(bytes).and_then(|bytes| parse(file, member, &bytes, true)),
            _ => parse(file, member, bytes, true),
        };
        assert!(read(&bytes).is_ok(), "{name}");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            for byte in [0, 0x7f, 0xff, bytes[at] ^ 1, b'9', b'('] {
                changed[at] = byte;
                n_errors += usize::from(read(&changed).is_err());
            }
            n_errors += usize::from(read(&bytes[..at]).is_err());
        }
    }
    assert!(n_errors > 1000, "only {n_errors} files were refused");
}
