//! `anemone inspect`: what is in a model, at a glance.

mod work;

use crate::{Outcome, args};
use anemone::model_file::{Format, ModelFile};
use anemone_mil::ir::{
    ArgValue, BlobRef, Block, Call, Constant, Function, Literal, Param, Program, TensorType, Type,
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

/// What there is to say of a model.
#[derive(Debug, Serialize)]
struct Summary {
    path: String,
    format: &'static str,
    /// The version of the language.
    version: &'static str,
    functions: Vec<FunctionSummary>,
    /// Elements of the weights as the ops see them, decompressed.
    n_parameters: u64,
    /// Bytes in weights files by element type; what several constants share counts once.
    weights_bytes: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct FunctionSummary {
    name: String,
    opset: &'static str,
    inputs: Vec<Named>,
    outputs: Vec<Named>,
    /// Number of calls by op, `const` left out; bodies of loops count once.
    ops: BTreeMap<String, usize>,
    /// Floating-point operations of convolutions, matrix products, attention and recurrent ops in one run: two for
    /// a multiplication with its addition. Bodies of loops count once.
    flops: u64,
    /// Ops whose work depends on sizes that are known only at run time, left out of `flops`.
    n_unknown_flops: usize,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    #[serde(rename = "type")]
    ty: String,
}

pub(crate) fn run(args: &args::Inspect, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let model = ModelFile::open_program(&args.path)?;
    let format = match model.format() {
        Format::Text => "MIL text",
        Format::Compiled => "compiled model",
        Format::Package => "Core ML package",
    };
    let summary = summary(&model.program, args.path.display().to_string(), format);
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        print(&summary, out)?;
    }
    Ok(Outcome::Clean)
}

fn summary(program: &Program, path: String, format: &'static str) -> Summary {
    let mut weights = WeightsSeen::default();
    let functions = program.functions.iter().map(|f| function(f, &mut weights)).collect();
    Summary {
        path,
        format,
        version: program.version.as_str(),
        functions,
        n_parameters: weights.n_parameters,
        weights_bytes: weights.bytes,
    }
}

/// The constants in weights files that were met so far.
#[derive(Default)]
struct WeightsSeen {
    records: HashSet<BlobRef>,
    bytes: BTreeMap<&'static str, u64>,
    n_parameters: u64,
}

impl WeightsSeen {
    /// Counts a record's bytes; whether it is a new one.
    fn record(&mut self, blob: &BlobRef, ty: &TensorType) -> bool {
        let new = self.records.insert(blob.clone());
        if new {
            *self.bytes.entry(ty.dtype.as_str()).or_default() += ty.n_bytes().unwrap_or(0) as u64;
        }
        new
    }

    fn parameters(&mut self, ty: &Type) {
        self.n_parameters += ty.as_tensor().and_then(TensorType::n_elements).unwrap_or(0) as u64;
    }

    /// Counts the records in a call, and the parameters that it makes of them.
    fn call(&mut self, call: &Call, inner: &HashSet<&str>) {
        let arguments = call.args.iter().filter_map(|a| match &a.value {
            ArgValue::Constant(c) => Some(c),
            _ => None,
        });
        let mut new = false;
        for constant in arguments.chain(call.attributes.iter().map(|(_, c)| c)) {
            if let (Literal::Blob(blob), Type::Tensor(ty)) = (&constant.value, &constant.ty) {
                new |= self.record(blob, ty);
                let parameter = !is_constexpr(call) && call.op != "const";
                if parameter {
                    self.parameters(&constant.ty);
                }
            }
        }
        // What a `constexpr` op makes are the parameters, not what it makes them of.
        let Some(output) = call.outputs.first().filter(|o| !inner.contains(&*o.name)) else { return };
        if (call.op == "const" && new) || is_constexpr(call) {
            self.parameters(&output.ty);
        }
    }
}

fn is_constexpr(call: &Call) -> bool {
    call.op.starts_with("constexpr_")
}

fn function(f: &Function, weights: &mut WeightsSeen) -> FunctionSummary {
    let mut calls = Vec::new();
    flatten(&f.body, &mut calls);
    let inner: HashSet<&str> = calls
        .iter()
        .filter(|call| is_constexpr(call))
        .flat_map(|call| &call.args)
        .filter_map(|arg| match &arg.value {
            ArgValue::Name(name) => Some(&**name),
            _ => None,
        })
        .collect();
    let types: HashMap<&str, &Type> =
        f.params.iter().chain(calls.iter().flat_map(|c| &c.outputs)).map(|p| (&*p.name, &p.ty)).collect();
    let constants: HashMap<&str, &Constant> = calls
        .iter()
        .filter(|c| c.op == "const")
        .filter_map(|c| Some((&*c.outputs.first()?.name, c.attribute("val")?)))
        .collect();
    let (mut ops, mut flops, mut n_unknown_flops) = (BTreeMap::new(), 0u64, 0);
    for call in &calls {
        weights.call(call, &inner);
        if call.op != "const" {
            *ops.entry(call.op.clone()).or_default() += 1;
        }
        match (work::Operands { call, types: &types, constants: &constants }).flops() {
            Some(n) => flops = flops.saturating_add(n),
            None => n_unknown_flops += 1,
        }
    }
    let named = |p: &Param| Named { name: p.name.clone(), ty: p.ty.to_string() };
    let outputs = f.body.outputs.iter().map(|o| Named {
        name: o.name.clone(),
        ty: types.get(&*o.name).map_or("?".to_string(), |ty| ty.to_string()),
    });
    FunctionSummary {
        name: f.name.clone(),
        opset: f.opset.as_str(),
        inputs: f.params.iter().map(named).collect(),
        outputs: outputs.collect(),
        ops,
        flops,
        n_unknown_flops,
    }
}

/// The calls of a block and of the blocks in them.
fn flatten<'a>(block: &'a Block, calls: &mut Vec<&'a Call>) {
    for call in &block.calls {
        calls.push(call);
        call.blocks.iter().for_each(|b| flatten(b, calls));
    }
}

fn print(s: &Summary, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}: {}, program({})", s.path, s.format, s.version)?;
    let bytes: u64 = s.weights_bytes.values().sum();
    writeln!(out, "{} parameters, {} of weights", short(s.n_parameters, 1000), size(bytes))?;
    for (dtype, n) in &s.weights_bytes {
        writeln!(out, "  {dtype:9}  {}", size(*n))?;
    }
    for f in &s.functions {
        writeln!(out, "\nfunction {} ({})", f.name, f.opset)?;
        for (what, values) in [("input", &f.inputs), ("output", &f.outputs)] {
            let width = values.iter().map(|v| v.name.len()).max().unwrap_or(0);
            for v in values {
                writeln!(out, "  {what:6}  {:width$}  {}", v.name, v.ty)?;
            }
        }
        let unknown = match f.n_unknown_flops {
            0 => String::new(),
            n => format!(", and those of {n} ops of unknown size"),
        };
        writeln!(out, "  work    {}FLOPs{unknown}", short_spaced(f.flops))?;
        let mut ops: Vec<_> = f.ops.iter().collect();
        ops.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
        writeln!(out, "  ops     {}", ops.iter().map(|(_, n)| **n).sum::<usize>())?;
        for (name, n) in ops {
            writeln!(out, "  {n:6}  {name}")?;
        }
    }
    Ok(())
}

/// `1.23 M`, with as many digits as matter.
fn short(n: u64, base: u64) -> String {
    let (mut x, mut unit) = (n as f64, "");
    for next in ["k", "M", "G", "T"] {
        if x < base as f64 {
            break;
        }
        x /= base as f64;
        unit = next;
    }
    if unit.is_empty() { n.to_string() } else { format!("{x:.2} {unit}") }
}

/// As [`short`], with room for a unit behind it: `1.23 M`, `12 `.
fn short_spaced(n: u64) -> String {
    let text = short(n, 1000);
    if text.contains(' ') { text } else { text + " " }
}

/// Bytes, in multiples of 1024.
fn size(n: u64) -> String {
    // The binary prefix is Ki, though the decimal one is k.
    let text = short(n, 1024).replace('k', "K");
    if text.contains(' ') { format!("{text}iB") } else { format!("{text} B") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = r#"program(1.3) { func main<ios18>(tensor<fp16, [2, 64]> x) {
        tensor<fp16, [8]> b = const()[val = tensor<fp16, [8]>(BLOBFILE(path = string("w"), offset = uint64(64)))];
        tensor<fp16, [8]> again = const()[val = tensor<fp16, [8]>(BLOBFILE(path = string("w"), offset = uint64(64)))];
        tensor<fp16, [8, 64]> w = constexpr_lut_to_dense(
            indices = tensor<uint4, [8, 64]>(BLOBFILE(path = string("w"), offset = uint64(256))),
            lut = tensor<fp16, [1, 1, 16, 1]>(BLOBFILE(path = string("w"), offset = uint64(1024))));
        tensor<fp16, [2, 8]> h = linear(x = x, weight = w, bias = b);
        tensor<fp16, [2, 2]> y = matmul(x = h, y = h, transpose_x = bool(false), transpose_y = bool(true));
        tensor<fp16, [2, 2]> z = relu(x = y);
    } -> (z); }"#;

    #[test]
    fn weights_count_once_and_as_the_ops_see_them() {
        let program = anemone_mil::text::parse(MODEL).unwrap();
        let s = summary(&program, "m.mil".into(), "MIL text");
        assert_eq!(s.n_parameters, 8 + 8 * 64);
        assert_eq!(s.weights_bytes, BTreeMap::from([("fp16", 2 * (8 + 16)), ("uint4", 8 * 64 / 2)]));
        let f = &s.functions[0];
        // linear: 2 x 8 sums of 64 products; matmul: 2 x 2 of 8.
        assert_eq!((f.flops, f.n_unknown_flops), (2 * (2 * 8 * 64 + 2 * 2 * 8), 0));
        assert_eq!(f.ops["linear"], 1);
        assert!(!f.ops.contains_key("const"));
        assert_eq!((&*f.outputs[0].name, &*f.outputs[0].ty), ("z", "fp16 [2, 2]"));

        let mut text = Vec::new();
        print(&s, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("m.mil: MIL text, program(1.3)\n520 parameters, 304 B of weights\n"), "{text}");
        assert!(
            text.contains("\n  input   x  fp16 [2, 64]\n  output  z  fp16 [2, 2]\n  work    2.11 kFLOPs\n"),
            "{text}"
        );
        assert_eq!([size(3 << 20), size(1536), size(10)], ["3.00 MiB", "1.50 KiB", "10 B"]);
    }
}
