//! Convolutions as linear layers, for devices whose convolution takes no weights at run time.

use super::rewrite;
use crate::error::Result;
use crate::ir::Program;
use crate::ops::conv;
use crate::valid::{ValidCall, ValidFunction, ValidProgram};

/// The main function with the convolutions that `which` says yes to unfolded: what each window sees becomes a
/// column of channels, moved there by slices, and the convolution a 1x1 convolution of these with the same weights
/// in another shape. Those that are 1x1 convolutions already stay as they are.
///
/// # Errors
///
/// If a call has nested blocks.
pub fn unfold(program: &ValidProgram, which: impl Fn(&ValidFunction, &ValidCall) -> bool) -> Result<Program> {
    let which = |f: &ValidFunction, call: &ValidCall| which(f, call).then_some(());
    rewrite(program, which, |b, site, ()| conv::unfold(b, site.call.op, &site.args, site.name))
}
