//! Programs rewritten into programs that compute the same.

mod split;
mod unfold;

use crate::builder::{Builder, Value};
use crate::error::{Error, Result};
use crate::ir::Program;
use crate::ops::OpResult;
use crate::replay::Replay;
use crate::valid::{ArgIds, ValidCall, ValidFunction, ValidProgram};
pub use split::split;
pub use unfold::unfold;

/// A call to be replaced, with its arguments in the new program.
struct Site<'a> {
    call: &'a ValidCall,
    args: Vec<Option<Vec<Value>>>,
    /// The name of the output.
    name: &'a str,
}

impl Site<'_> {
    fn arg(&self, name: &str) -> Option<Value> {
        self.args[self.call.op.param(name)?.0].as_ref()?.first().copied()
    }
}

/// The main function with the convolutions that `which` gives something for replaced by what `replace` makes of
/// them, unless that is nothing.
fn rewrite<T>(
    program: &ValidProgram,
    which: impl Fn(&ValidFunction, &ValidCall) -> Option<T>,
    replace: impl Fn(&mut Builder, &Site<'_>, T) -> OpResult<Option<Value>>,
) -> Result<Program> {
    let f = program.main();
    let mut replay = Replay::new(f, program.program().version);
    for &id in &f.inputs {
        replay.input(id)?;
    }
    for call in &f.body.calls {
        let Some(how) = which(f, call).filter(|_| call.op.name == "conv") else {
            replay.call(call)?;
            continue;
        };
        let mut args = Vec::new();
        for arg in &call.args {
            let ids = arg.as_ref().map(ArgIds::ids);
            args.push(ids.map(|ids| ids.iter().map(|&id| replay.value(id)).collect::<Result<_>>()).transpose()?);
        }
        let output = call.outputs[0];
        let site = Site { call, args, name: &f.value(output).name };
        let replaced = replace(&mut replay.builder, &site, how);
        match replaced.map_err(|e| Error::gradient(format!("op `conv` (`{}`): {e}", f.label(call))))? {
            Some(y) => replay.set(output, y),
            None => replay.call(call)?,
        }
    }
    let outputs = f.outputs.iter().map(|&id| replay.value(id)).collect::<Result<Vec<_>>>()?;
    replay.builder.finish(&outputs)
}
