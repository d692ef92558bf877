//! What the engine's compiler is given: a program reshaped into the one form that is known to be taken everywhere.
//!
//! - Inputs and outputs are fp16; casts at the boundary are done on the host.
//! - They are called `i000`, `i001`, ... and `o000`, ...: the engine orders them by the bytes of their names, and
//!   so their order is that of the program. Other values are renamed too, so that no name is a keyword.
//! - A last axis that is no multiple of 32 elements is padded, where columns do not depend on each other; see
//!   [`Columns`].
//! - Several inputs can be packed into one.
//! - All constants lie in one weights file.
//!
//! Sources: maderix/ANE and its issues 3 and 47, Orion constraints 3, 18 and 19, qwen-ane for the width.

mod columns;
mod pack;
mod rename;

pub use columns::Columns;

use crate::error::{Error, Result};
use anemone_mil::ir::{Arg, ArgValue, Block, Call, Constant, DType, Literal, Program, TensorType, Type, Version};
use anemone_mil::valid::check;
use anemone_mil::weights::WeightsWriter;
use anemone_mil::{Limits, ValidProgram, Weights, text, validate};
use std::collections::HashMap;

/// Where programs look for their weights file.
pub const WEIGHTS_PATH: &str = "@model_path/weights/weight.bin";

/// Last axes are padded to a multiple of this many elements, 64 bytes of fp16.
pub const WIDTH_MULTIPLE: usize = 32;

/// A program in the form that the engine takes.
#[derive(Clone, Debug)]
pub struct Shaped {
    program: Program,
    /// The inputs, in the order of the program.
    pub inputs: Vec<Port>,
    /// The outputs, in the order of the program.
    pub outputs: Vec<Port>,
    /// The one input that holds them all, if they were packed.
    pub packing: Option<Packing>,
    /// The weights file, if the program has constants in one.
    pub weights: Option<Vec<u8>>,
}

/// An input or output as the host has it and as the engine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name in the program that was given.
    pub name: String,
    /// The type in the program that was given.
    pub host: TensorType,
    /// The name that the engine knows.
    pub symbol: String,
    /// The type that the engine knows.
    pub engine: TensorType,
}

impl Port {
    /// The size of the engine's tensor in bytes.
    pub fn n_bytes(&self) -> usize {
        self.engine.n_bytes().unwrap_or(0)
    }
}

/// One input that holds several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// The input itself: `[1, rows, 1, columns]`.
    pub port: Port,
    /// The column where each of the inputs begins, in the order of the program. They begin at row 0.
    pub columns: Vec<usize>,
}

/// Which of the forms a program is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether inputs and outputs that are fp32 and cast become fp16.
    pub fp16_io: bool,
    /// Whether last axes are padded.
    pub pad: bool,
    /// Whether several inputs are packed into one.
    pub packed: bool,
}

impl Shaped {
    /// Reshapes a program.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] if it cannot be padded and must be, [`Error::is_config`] if weights are missing.
    pub fn new(program: &ValidProgram, weights: &Weights, form: Form) -> Result<Shaped> {
        let main = program.main();
        let mut p = program.program().clone();
        let Some(index) = p.functions.iter().position(|f| f.name == main.name) else {
            return Err(Error::config("the program has no function to run"));
        };
        p.functions.swap(0, index);
        p.functions.truncate(1);
        let host = |id| {
            let value = main.value(id);
            let ty: Option<&TensorType> = value.ty.as_tensor().filter(|t| t.n_elements().is_some());
            ty.cloned().map(|t| (value.name.clone(), t)).ok_or_else(|| {
                Error::config(format!("`{}` is {}, expected a tensor of fixed shape", value.name, value.ty))
            })
        };
        let inputs = main.inputs.iter().map(|&v| host(v)).collect::<Result<Vec<_>>>()?;
        let outputs = main.outputs.iter().map(|&v| host(v)).collect::<Result<Vec<_>>>()?;
        if form.fp16_io {
            move_casts_out(&mut p.functions[0]);
        }
        if form.pad {
            p = columns::pad(p)?;
        }
        let widened: Vec<Type> = p.functions[0].params.iter().map(|x| x.ty.clone()).collect();
        let mut packing = if form.packed { pack::pack(&mut p.functions[0])? } else { None };
        let weights = one_file(&mut p.functions[0].body, weights)?;
        rename::rename(&mut p.functions[0])?;
        // Whatever was done to it, the types must still follow from each other.
        let checked = validate(p, &Limits::none())
            .map_err(|e| Error::from(e).context("the program in the form that the engine takes"))?;
        let f = checked.main();
        let port = |(name, host): (String, TensorType), symbol: &str, ty: &Type| {
            let engine = ty.as_tensor().cloned().unwrap_or_else(|| host.clone());
            Port { name, host, symbol: symbol.into(), engine }
        };
        let symbol = |id| f.value(id).name.as_str();
        if let (Some(packing), Some(&id)) = (&mut packing, f.inputs.first()) {
            packing.port.symbol = symbol(id).into();
        }
        // Those that are packed have the symbol of what they are packed into.
        let symbols = f.inputs.iter().cycle().map(|&id| symbol(id));
        let inputs = inputs.into_iter().zip(symbols.zip(&widened)).map(|(h, (s, ty))| port(h, s, ty)).collect();
        let outputs =
            outputs.into_iter().zip(&f.outputs).map(|(h, &v)| port(h, symbol(v), &f.value(v).ty)).collect();
        Ok(Shaped { program: checked.program().clone(), inputs, outputs, packing, weights })
    }

    /// The text in that version of the language, with the op set that goes with it if the ops are in that: iOS 18
    /// with 1.3, iOS 16, the oldest that is taken from text, with 1.0.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] if the program cannot be said in it.
    pub fn text(&self, version: Version) -> Result<String> {
        let program = self.program.to_version(version).map_err(|e| Error::refused(e.to_string()))?;
        let mut usual = program.clone();
        for function in &mut usual.functions {
            function.opset = version.default_opset();
            function.body.calls.iter_mut().for_each(|c| c.opset = None);
        }
        let usual = validate(usual, &Limits::none());
        Ok(text::print(usual.as_ref().map_or(&program, |valid| valid.program())))
    }

    /// Checks what packing has made of the program against the rules of a device.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] that names the rule, also where the engine would take the program and compute
    /// something else.
    pub fn check_packing(&self, limits: &Limits) -> Result<()> {
        if self.packing.is_none() {
            return Ok(());
        }
        let context = |e: Error| e.context("the program with its inputs packed into one");
        let (valid, found) = check(self.program.clone(), limits);
        if let Some(start) = found.iter().find(|d| d.code == "slice-start") {
            return Err(context(Error::refused(format!("{} (rule `slice-start`)", start.message))));
        }
        match valid {
            Some(_) => Ok(()),
            None => validate(self.program.clone(), limits).map(|_| ()).map_err(|e| context(e.into())),
        }
    }

    /// Whether an input or output is fp32.
    pub fn has_fp32_io(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).any(|p| p.engine.dtype == DType::Fp32)
    }
}

/// Makes fp32 inputs that are only cast to fp16, and fp32 outputs that were only cast from fp16, fp16 themselves.
/// The host rounds as the cast does, so that numbers stay the same.
fn move_casts_out(f: &mut anemone_mil::ir::Function) {
    let casts: Vec<(String, Param2)> = f.body.calls.iter().filter_map(cast_of).collect();
    // Inputs: every use of the input is a cast to fp16.
    for param in &mut f.params {
        let Type::Tensor(ty) = &mut param.ty else { continue };
        let uses = n_uses(&f.body, &param.name);
        let made: Vec<&Param2> = casts.iter().filter(|(x, _)| *x == param.name).map(|(_, y)| y).collect();
        if ty.dtype != DType::Fp32
            || made.is_empty()
            || made.len() != uses
            || made.iter().any(|y| y.1 != DType::Fp16)
        {
            continue;
        }
        ty.dtype = DType::Fp16;
        let names: Vec<String> = made.iter().map(|y| y.0.clone()).collect();
        f.body.calls.retain(|c| !(c.op == "cast" && c.outputs.iter().any(|o| names.contains(&o.name))));
        let replace = |name: &mut String| {
            if names.contains(name) {
                *name = param.name.clone();
            }
        };
        for_each_use(&mut f.body, &mut { replace });
    }
    // Outputs: the value is a cast of an fp16 value that a call has computed, and is used nowhere else.
    let computed: HashMap<String, DType> = f
        .body
        .calls
        .iter()
        .filter(|c| c.op != "const")
        .flat_map(|c| &c.outputs)
        .filter_map(|o| Some((o.name.clone(), o.ty.as_tensor()?.dtype)))
        .collect();
    for i in 0..f.body.outputs.len() {
        let name = f.body.outputs[i].name.clone();
        let Some((x, _)) = f.body.calls.iter().filter_map(cast_of).find(|(_, y)| y.0 == name) else { continue };
        let is_output = f.body.outputs.iter().any(|o| o.name == x);
        if computed.get(&name) == Some(&DType::Fp32)
            && computed.get(&x) == Some(&DType::Fp16)
            && !is_output
            && n_uses(&f.body, &name) == 1
        {
            f.body.calls.retain(|c| c.outputs.iter().all(|o| o.name != name));
            f.body.outputs[i].name = x;
        }
    }
    drop_unused_constants(&mut f.body);
}

/// Name and element type of a value.
struct Param2(String, DType);

/// What a cast takes and makes.
fn cast_of(call: &Call) -> Option<(String, Param2)> {
    let (ArgValue::Name(x), [y]) = (call.arg("x")?, &call.outputs[..]) else { return None };
    (call.op == "cast").then(|| y.ty.as_tensor().map(|t| (x.clone(), Param2(y.name.clone(), t.dtype))))?
}

/// Calls `f` with every name that a block uses, nested blocks and outputs included.
fn for_each_use(block: &mut Block, f: &mut impl FnMut(&mut String)) {
    fn in_value(value: &mut ArgValue, f: &mut impl FnMut(&mut String)) {
        match value {
            ArgValue::Name(name) => f(name),
            ArgValue::Tuple(values) => values.iter_mut().for_each(|v| in_value(v, f)),
            ArgValue::Constant(_) => {}
        }
    }
    for call in &mut block.calls {
        call.args.iter_mut().for_each(|a| in_value(&mut a.value, f));
        call.blocks.iter_mut().for_each(|b| for_each_use(b, f));
    }
    block.outputs.iter_mut().for_each(|o| f(&mut o.name));
}

/// How often a name is used.
fn n_uses(block: &Block, name: &str) -> usize {
    fn in_value(value: &ArgValue, name: &str) -> usize {
        match value {
            ArgValue::Name(n) => usize::from(n == name),
            ArgValue::Tuple(values) => values.iter().map(|v| in_value(v, name)).sum(),
            ArgValue::Constant(_) => 0,
        }
    }
    let in_call = |c: &Call| {
        c.args.iter().map(|a| in_value(&a.value, name)).sum::<usize>()
            + c.blocks.iter().map(|b| n_uses(b, name)).sum::<usize>()
    };
    block.calls.iter().map(in_call).sum::<usize>() + block.outputs.iter().filter(|o| o.name == name).count()
}

/// Takes out constants that nothing uses, which the engine refuses in some versions.
fn drop_unused_constants(block: &mut Block) {
    let unused: Vec<String> = block
        .calls
        .iter()
        .filter(|c| c.op == "const")
        .flat_map(|c| &c.outputs)
        .filter(|o| n_uses(block, &o.name) == 0)
        .map(|o| o.name.clone())
        .collect();
    block.calls.retain(|c| !(c.op == "const" && c.outputs.iter().any(|o| unused.contains(&o.name))));
}

/// Calls `f` with every constant of a block.
fn for_each_constant(block: &mut Block, f: &mut impl FnMut(&mut Constant) -> Result<()>) -> Result<()> {
    fn in_value(value: &mut ArgValue, f: &mut impl FnMut(&mut Constant) -> Result<()>) -> Result<()> {
        match value {
            ArgValue::Name(_) => Ok(()),
            ArgValue::Constant(c) => f(c),
            ArgValue::Tuple(values) => values.iter_mut().try_for_each(|v| in_value(v, f)),
        }
    }
    for call in &mut block.calls {
        call.attributes.iter_mut().try_for_each(|(_, c)| f(c))?;
        call.args.iter_mut().try_for_each(|Arg { value, .. }| in_value(value, f))?;
        call.blocks.iter_mut().try_for_each(|b| for_each_constant(b, f))?;
    }
    Ok(())
}

/// Brings the constants of several weights files into one, and gives that. A single file stays as it is.
fn one_file(block: &mut Block, weights: &Weights) -> Result<Option<Vec<u8>>> {
    let mut paths: Vec<String> = Vec::new();
    for_each_constant(block, &mut |c| {
        if let Literal::Blob(blob) = &c.value {
            weights
                .resolve(blob, c.ty.as_tensor().ok_or_else(|| Error::config("a constant that is no tensor"))?)?;
            if !paths.contains(&blob.path) {
                paths.push(blob.path.clone());
            }
        }
        Ok(())
    })?;
    let single = match &paths[..] {
        [] => return Ok(None),
        [path] => weights.get(path).map(|file| file.bytes().to_vec()),
        _ => None,
    };
    let mut writer = WeightsWriter::new();
    let mut written = HashMap::new();
    for_each_constant(block, &mut |c| {
        let Literal::Blob(blob) = &mut c.value else { return Ok(()) };
        if single.is_none() {
            let offset = match written.get(blob) {
                Some(&offset) => offset,
                None => {
                    let record = weights.record(blob)?;
                    let n = usize::try_from(record.n_elements())
                        .map_err(|_| Error::config("a constant is larger than memory"))?;
                    let offset = writer.add_bytes(record.dtype(), n, record.data())?;
                    written.insert(blob.clone(), offset);
                    offset
                }
            };
            blob.offset = offset;
        }
        blob.path = WEIGHTS_PATH.into();
        Ok(())
    })?;
    Ok(Some(single.unwrap_or_else(|| writer.finish())))
}

#[cfg(test)]
mod tests;
