//! Arrays of numbers from files: NumPy's `.npy` and `.npz`, IDX (the format of MNIST) and CSV.

mod csv;
mod element;
mod idx;
mod npy;

use crate::error::{Error, Result};
use crate::map::map;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// An array of numbers in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// What it is called in messages: the path of its file, for one in an archive with `#` and its name.
    pub name: String,
    /// The sizes.
    pub shape: Vec<usize>,
    /// The elements, each rounded to f32.
    pub values: Vec<f32>,
    /// The names of the columns, of a CSV file with a header.
    pub columns: Option<Vec<String>>,
}

impl Array {
    /// Reads the array at `path`, which may be compressed by gzip. The format is told from the content; what no
    /// other format claims is CSV if the path ends in `.csv`. An array in a `.npz` archive of several is named
    /// after a `#`: `mnist.npz#x_train`. `header` says whether the first row of a CSV file names its columns.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is in no known format, or holds less or more than it says.
    pub fn read(path: &str, header: bool) -> Result<Array> {
        let (file, member) = match path.rsplit_once('#') {
            Some((file, member)) if file.ends_with(".npz") => (file, Some(member)),
            _ => (path, None),
        };
        let bytes = map(Path::new(file))?;
        let parsed = match bytes.starts_with(&[0x1f, 0x8b]) {
            true => gunzip(&bytes).and_then(|bytes| parse(file.trim_end_matches(".gz"), member, &bytes, header)),
            false => parse(file, member, &bytes, header),
        };
        let parsed = parsed.map_err(|e| Error::config(e).context(format!("read `{path}`")))?;
        Ok(Array { name: path.into(), shape: parsed.shape, values: parsed.values, columns: parsed.columns })
    }

    /// The number of rows: the first size.
    pub(super) fn n_rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The number of elements in a row.
    pub(super) fn row_size(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Takes out the column that the header, or failing that the number (from 0), names; what is left is of
    /// rank 2.
    ///
    /// # Errors
    ///
    /// If the array is not of rank 2 or has no such column.
    pub fn take_column(mut self, column: &str) -> Result<(Array, Array)> {
        let [n_rows, n_columns] = self.shape[..] else {
            return Err(self.wrong(format!("shape {:?}, expected rows and columns", self.shape)));
        };
        let by_name = self.columns.as_ref().and_then(|names| names.iter().position(|name| name == column));
        let Some(at) = by_name.or_else(|| column.parse().ok().filter(|&at| at < n_columns)) else {
            let columns = match &self.columns {
                Some(names) => format!("one of {}", names.join(", ")),
                None => format!("a number below {n_columns}"),
            };
            return Err(self.wrong(format!("there is no column `{column}`, expected {columns}")));
        };
        let taken = self.values.iter().skip(at).step_by(n_columns).copied().collect();
        let mut i = 0;
        self.values.retain(|_| {
            i += 1;
            (i - 1) % n_columns != at
        });
        self.shape[1] -= 1;
        if let Some(names) = &mut self.columns {
            names.remove(at);
        }
        let taken = Array { name: self.name.clone(), shape: vec![n_rows], values: taken, columns: None };
        Ok((self, taken))
    }

    /// An error about this array.
    pub(super) fn wrong(&self, what: impl fmt::Display) -> Error {
        Error::config(format!("`{}`: {what}", self.name))
    }
}

/// What a file says, before it has a name.
#[derive(Debug, PartialEq)]
struct Parsed {
    shape: Vec<usize>,
    values: Vec<f32>,
    columns: Option<Vec<String>>,
}

/// What is wrong with a file.
type Parse<T> = std::result::Result<T, String>;

fn parse(file: &str, member: Option<&str>, bytes: &[u8], header: bool) -> Parse<Parsed> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    if bytes.starts_with(npy::MAGIC) {
        npy::parse(bytes)
    } else if [b"PK\x03\x04", b"PK\x05\x06"].iter().any(|magic| bytes.starts_with(*magic)) {
        npy::parse_archive(bytes, member)
    } else if bytes.starts_with(&[0, 0]) {
        idx::parse(bytes)
    } else if file.ends_with(".csv") {
        csv::parse(bytes, header)
    } else {
        Err("the format is not known, expected .npy, .npz, IDX, or a name that ends in .csv".into())
    }
}

fn gunzip(bytes: &[u8]) -> Parse<Vec<u8>> {
    let mut out = Vec::new();
    match flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out) {
        Ok(_) => Ok(out),
        Err(e) => Err(format!("gzip: {e}")),
    }
}

/// The number of elements of a shape.
fn n_elements(shape: &[usize]) -> Parse<usize> {
    let product = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    product.ok_or_else(|| format!("shape {shape:?} has more elements than there are numbers"))
}

/// The array that IDX bytes compiled into this crate hold.
pub(super) fn built_in(name: &str, gz: &[u8]) -> Result<Array> {
    let parsed = gunzip(gz).and_then(|bytes| idx::parse(&bytes));
    let parsed = parsed.map_err(|e| Error::config(e).context(format!("read `{name}`")))?;
    Ok(Array { name: name.into(), shape: parsed.shape, values: parsed.values, columns: None })
}

/// The text that is compiled into this crate.
pub(super) fn built_in_text(name: &str, gz: &[u8]) -> Result<String> {
    let text = gunzip(gz).and_then(|bytes| String::from_utf8(bytes).map_err(|e| e.to_string()));
    text.map_err(|e| Error::config(e).context(format!("read `{name}`")))
}

#[cfg(test)]
mod tests;
