//! Convolutions as linear layers, for devices whose convolution takes no weights at run time.

use crate::error::{Error, Result};
use crate::ir::Program;
use crate::ops::conv;
use crate::replay::Replay;
use crate::valid::{ArgIds, ValidCall, ValidFunction, ValidProgram};

/// The main function with the convolutions that `which` says yes to unfolded: what each window sees becomes a column
/// of channels, moved there by slices, and the convolution a 1x1 convolution of these with the same weights in
/// another shape. Those that are 1x1 convolutions already stay as they are.
///
/// # Errors
///
/// If a call has nested blocks.
pub fn unfold(program: &ValidProgram, which: impl Fn(&ValidFunction, &ValidCall) -> bool) -> Result<Program> {
    let f = program.main();
    let mut replay = Replay::new(f, program.program().version);
    for &id in &f.inputs {
        replay.input(id)?;
    }
    for call in &f.body.calls {
        if call.op.name != "conv" || !which(f, call) {
            replay.call(call)?;
            continue;
        }
        let mut args = Vec::new();
        for arg in &call.args {
            let ids = arg.as_ref().map(ArgIds::ids);
            args.push(ids.map(|ids| ids.iter().map(|&id| replay.value(id)).collect::<Result<_>>()).transpose()?);
        }
        let label = f.label(call);
        let unfolded = conv::unfold(&mut replay.builder, call.op, &args, &f.value(call.outputs[0]).name);
        match unfolded.map_err(|e| Error::gradient(format!("op `conv` (`{label}`): {e}")))? {
            Some(y) => replay.set(call.outputs[0], y),
            None => replay.call(call)?,
        }
    }
    let outputs = f.outputs.iter().map(|&id| replay.value(id)).collect::<Result<Vec<_>>>()?;
    replay.builder.finish(&outputs)
}
