//! Linear layers split into smaller ones, for devices whose axes are limited.

use super::{Site, rewrite};
use crate::builder::{Builder, Value};
use crate::error::Result;
use crate::ir::Program;
use crate::ops::{OpResult, conv};
use crate::valid::{ValidCall, ValidFunction, ValidProgram};
use std::ops::Range;

/// The main function with 1x1 convolutions of one group and without bias split into a grid of smaller ones:
/// `which` gives the number of parts of the output and of the input channels. Parts of the output are
/// concatenated, parts of the input added up.
///
/// # Errors
///
/// If a call has nested blocks.
pub fn split(
    program: &ValidProgram,
    which: impl Fn(&ValidFunction, &ValidCall) -> Option<(usize, usize)>,
) -> Result<Program> {
    rewrite(program, which, parts_of)
}

fn parts_of(b: &mut Builder, site: &Site<'_>, (n_out, n_in): (usize, usize)) -> OpResult<Option<Value>> {
    let (Some(x), Some(w)) = (site.arg("x"), site.arg("weight")) else { return Ok(None) };
    if (n_out, n_in) == (1, 1) || !conv::is_linear(b, site.call.op, &site.args)? {
        return Ok(None);
    }
    let ws = b.shape(w)?;
    let mut inputs = Vec::new();
    for part in ranges(ws[1], n_in) {
        inputs.push((cut(b, x, 1, &part)?, part));
    }
    let mut outputs = Vec::new();
    for rows in ranges(ws[0], n_out) {
        let w = cut(b, w, 0, &rows)?;
        let mut sum = None;
        for (x, columns) in &inputs {
            let w = cut(b, w, 1, columns)?;
            let name = format!("{}_{}_{}", site.name, outputs.len(), columns.start);
            let y = b.pointwise_call(*x, w)?.named(&name).finish()?;
            sum = Some(match sum {
                Some(so_far) => b.add(so_far, y)?,
                None => y,
            });
        }
        outputs.extend(sum);
    }
    Ok(Some(if outputs.len() == 1 { outputs[0] } else { b.concat(&outputs, 1)? }))
}

/// `n` in at most `parts` ranges of sizes that differ by one at most.
fn ranges(n: usize, parts: usize) -> Vec<Range<usize>> {
    let parts = parts.clamp(1, n.max(1));
    (0..parts).map(|i| i * n / parts..(i + 1) * n / parts).collect()
}

/// The part of `x` along `axis`, which is `x` itself if it is all of it.
fn cut(b: &mut Builder, x: Value, axis: usize, part: &Range<usize>) -> OpResult<Value> {
    let mut size = b.shape(x)?;
    if part.len() == size[axis] {
        return Ok(x);
    }
    let mut begin = vec![0; size.len()];
    (begin[axis], size[axis]) = (part.start, part.len());
    Ok(b.slice(x, &begin, &size)?)
}
