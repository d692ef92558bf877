//! Where the elements of a tensor lie in a surface.

use super::program::Port;
use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// What a loaded model says of one of its inputs or outputs: sizes in elements, strides in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    /// Its name, without the suffix that outputs have.
    pub(super) symbol: String,
    /// `Batches`, `Channels`, `Depth`, `Height`, `Width`.
    pub(super) sizes: [Option<usize>; 5],
    /// `BatchStride`, `PlaneStride`, `RowStride`.
    pub(super) strides: [Option<usize>; 3],
    /// How many channels lie side by side in a pixel.
    pub(super) interleave: Option<usize>,
}

/// More than this in a stride, in bytes, is no stride.
const MAX_STRIDE: usize = 1 << 31;

/// Where the elements lie: rows of the last axis, each dense in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    dtype: DType,
    /// Elements in a row that are the tensor's.
    width: usize,
    n_rows: usize,
    /// The first byte.
    start: usize,
    n_rows_in_plane: usize,
    n_planes_in_batch: usize,
    /// Bytes from one row, plane, batch to the next.
    row_stride: usize,
    plane_stride: usize,
    batch_stride: usize,
}

impl Layout {
    /// Rows as wide as the engine's type has them, one after the other.
    pub(super) fn dense(port: &Port) -> Result<Layout> {
        let shape = |t: &TensorType| {
            let fixed = t.fixed_shape();
            fixed.ok_or_else(|| Error::config(format!("`{}` is {t}, expected a fixed shape", port.name)))
        };
        let (host, engine) = (shape(&port.host)?, shape(&port.engine)?);
        let width = host.last().copied().unwrap_or(1);
        let n_rows = port.host.n_elements().unwrap_or(0).checked_div(width).unwrap_or(0);
        let row_stride = engine.last().copied().unwrap_or(1) * n_bytes(port.engine.dtype);
        let all = n_rows * row_stride;
        Ok(Layout {
            dtype: port.engine.dtype,
            width,
            n_rows,
            start: 0,
            n_rows_in_plane: n_rows.max(1),
            n_planes_in_batch: 1,
            row_stride,
            plane_stride: all,
            batch_stride: all,
        })
    }

    /// As a model describes it.
    ///
    /// # Errors
    ///
    /// What is said, if it does not go with the tensor: then rows lie as [`Layout::dense`] has them, or the
    /// numbers are wrong, which the self-test finds out.
    pub(super) fn described(port: &Port, said: &Described) -> Result<Layout> {
        let dense = Layout::dense(port)?;
        let [batches, channels, depth, height, width] = said.sizes;
        // A description without strides says nothing.
        let (Some(row_stride), Some(channels), Some(height), Some(engine_width)) =
            (said.strides[2], channels, height, width)
        else {
            return Ok(dense);
        };
        let batches = batches.unwrap_or(1);
        let plane_stride = said.strides[1].unwrap_or(height * row_stride);
        let batch_stride = said.strides[0].unwrap_or(channels * plane_stride);
        let layout = Layout {
            n_rows_in_plane: height.max(1),
            n_planes_in_batch: channels.max(1),
            row_stride,
            plane_stride,
            batch_stride,
            ..dense
        };
        let in_engine = port.engine.fixed_shape().and_then(|s| s.last().copied()).unwrap_or(1);
        let row = engine_width.saturating_mul(n_bytes(layout.dtype));
        let plane = (height.max(1) - 1).saturating_mul(row_stride).saturating_add(row);
        let batch = (channels.max(1) - 1).saturating_mul(plane_stride).saturating_add(plane);
        let fits = depth.unwrap_or(1) <= 1
            && said.interleave.unwrap_or(1) <= 1
            && [batches, channels, height].iter().try_fold(1usize, |n, &m| n.checked_mul(m))
                == Some(layout.n_rows)
            && engine_width == in_engine
            && (height <= 1 || row_stride >= row)
            && (channels <= 1 || plane_stride >= plane)
            && (batches <= 1 || batch_stride >= batch)
            && [row_stride, plane_stride, batch_stride].iter().all(|&s| s <= MAX_STRIDE);
        match fits {
            true => Ok(layout),
            false => Err(Error::config(format!("{said:?} is said of `{}`, which is {}", port.name, port.engine))),
        }
    }

    /// A block of the rows and columns of `port` in a tensor with this layout, from row 0 and that column.
    pub(super) fn block(&self, port: &Port, column: usize) -> Result<Layout> {
        let own = Layout::dense(port)?;
        Ok(Layout {
            width: own.width,
            n_rows: own.n_rows,
            start: self.start + column * n_bytes(self.dtype),
            ..self.clone()
        })
    }

    /// The bytes a surface must have.
    pub(super) fn n_bytes(&self) -> usize {
        match self.n_rows {
            0 => 0,
            // The whole of the last row is the engine's.
            n => self.row(n - 1) + self.row_stride.max(self.width * n_bytes(self.dtype)),
        }
    }

    /// Where a row begins.
    fn row(&self, index: usize) -> usize {
        let plane = index / self.n_rows_in_plane;
        self.start
            + index % self.n_rows_in_plane * self.row_stride
            + plane % self.n_planes_in_batch * self.plane_stride
            + plane / self.n_planes_in_batch * self.batch_stride
    }

    /// Where each row lies, without padding.
    fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let n = self.width * n_bytes(self.dtype);
        let n_rows = if n == 0 { 0 } else { self.n_rows };
        (0..n_rows).map(move |i| self.row(i)..self.row(i) + n)
    }

    /// Writes the elements.
    pub(super) fn store(&self, elements: &[f32], bytes: &mut [u8]) {
        let mut halves = vec![f16::ZERO; self.width];
        for (from, row) in elements.chunks_exact(self.width.max(1)).zip(self.rows()) {
            let to = &mut bytes[row];
            if self.dtype == DType::Fp16 {
                halves.convert_from_f32_slice(from);
                copy(to, halves.iter().map(|h| h.to_le_bytes()));
            } else {
                copy(to, from.iter().map(|x| x.to_le_bytes()));
            }
        }
    }

    /// Reads the elements.
    pub(super) fn load(&self, bytes: &[u8], elements: &mut [f32]) {
        let mut halves = vec![f16::ZERO; self.width];
        for (to, row) in elements.chunks_exact_mut(self.width.max(1)).zip(self.rows()) {
            let from = &bytes[row];
            if self.dtype == DType::Fp16 {
                halves.iter_mut().zip(from.as_chunks().0).for_each(|(h, &b)| *h = f16::from_le_bytes(b));
                halves.convert_to_f32_slice(to);
            } else {
                to.iter_mut().zip(from.as_chunks().0).for_each(|(x, &b)| *x = f32::from_le_bytes(b));
            }
        }
    }

    /// Whether all elements, of which there are some, consist of that byte alone.
    pub(super) fn is_filled_with(&self, byte: u8, bytes: &[u8]) -> bool {
        self.n_rows > 0 && self.width > 0 && self.rows().all(|row| bytes[row].iter().all(|&b| b == byte))
    }
}

fn n_bytes(dtype: DType) -> usize {
    if dtype == DType::Fp16 { 2 } else { 4 }
}

/// Writes numbers one after the other.
fn copy<const N: usize>(to: &mut [u8], numbers: impl Iterator<Item = [u8; N]>) {
    to.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host: &[usize], engine: &[usize]) -> Port {
        let ty = |shape| TensorType::new(DType::Fp16, shape);
        Port { name: "x".into(), host: ty(host), symbol: "i000".into(), engine: ty(engine) }
    }

    fn described(sizes: [usize; 5], strides: [usize; 3]) -> Described {
        Described {
            symbol: "i000".into(),
            sizes: sizes.map(Some),
            strides: strides.map(Some),
            interleave: Some(1),
        }
    }

    #[test]
    fn rows_are_found_by_strides() {
        let port = port(&[2, 3, 2, 5], &[2, 3, 2, 32]);
        let said = described([2, 3, 1, 2, 32], [1024, 256, 96]);
        let layout = Layout::described(&port, &said).unwrap();
        assert_eq!(layout.n_bytes(), 1024 + 2 * 256 + 96 + 96);
        let elements: Vec<f32> = (0..60).map(|i| i as f32 - 7.0).collect();
        let mut bytes = vec![0xff; layout.n_bytes()];
        assert!(layout.is_filled_with(0xff, &bytes));
        layout.store(&elements, &mut bytes);
        assert!(!layout.is_filled_with(0xff, &bytes));
        // Batch 1, channel 2, row 1, column 4 is the last element.
        let at = 1024 + 2 * 256 + 96 + 4 * 2;
        assert_eq!(f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(), 52.0);
        let mut found = vec![0.0; 60];
        layout.load(&bytes, &mut found);
        assert_eq!(found, elements);
        assert_ne!(layout, Layout::dense(&port).unwrap());
    }

    #[test]
    fn a_description_of_another_tensor_is_refused_and_one_without_strides_says_nothing() {
        let port = port(&[1, 4, 1, 5], &[1, 4, 1, 32]);
        let right = described([1, 4, 1, 1, 32], [256, 64, 64]);
        assert_eq!(Layout::described(&port, &right).unwrap().n_bytes(), Layout::dense(&port).unwrap().n_bytes());
        let nothing = Described { strides: [None; 3], ..right.clone() };
        assert_eq!(Layout::described(&port, &nothing).unwrap(), Layout::dense(&port).unwrap());
        for wrong in [
            described([1, 4, 2, 1, 32], [256, 64, 64]),
            described([1, 3, 1, 1, 32], [256, 64, 64]),
            described([1, 4, 1, 1, 48], [384, 96, 96]),
            described([1, 4, 1, 1, 32], [128, 32, 32]),
            Described { interleave: Some(4), ..right.clone() },
        ] {
            let e = Layout::described(&port, &wrong).unwrap_err();
            assert!(e.to_string().contains("`x`"), "{e}");
        }
    }
}
