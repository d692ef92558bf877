//! Finding what in a program breaks a rule.

use super::{Check, OpParams, Rule};
use crate::ir::{self, Program, Span, TensorType};
use crate::ops::{Presence, Value};
use crate::valid::{Origin, ValidBlock, ValidCall, ValidFunction, ValueId, ValueInfo};
use std::collections::{BTreeSet, HashSet};

/// What breaks a rule, and where.
pub(super) struct Hit {
    pub(super) message: String,
    pub(super) span: Span,
}

fn hit(message: String, span: Span) -> Hit {
    Hit { message, span }
}

/// Everything in the program that breaks `check`.
pub(super) fn hits(check: &Check, program: &Program, functions: &[ValidFunction]) -> Vec<Hit> {
    match check {
        Check::BuildInfo => {
            let is_there = program.attributes.iter().any(|(name, _)| name == "buildInfo");
            if is_there { Vec::new() } else { vec![hit("the program has no `buildInfo`".into(), Span::NONE)] }
        }
        Check::Version(version) if *version == program.version => {
            vec![hit(format!("the program is `program({})`", version.as_str()), Span::NONE)]
        }
        Check::Version(_) => Vec::new(),
        Check::CallNames => program.functions.iter().filter_map(unnamed).collect(),
        _ => functions.iter().flat_map(|f| in_function(check, f)).collect(),
    }
}

/// One finding for all calls of a function that have no name: they come together.
fn unnamed(f: &ir::Function) -> Option<Hit> {
    fn visit<'a>(block: &'a ir::Block, found: &mut Vec<&'a ir::Call>) {
        for call in &block.calls {
            if call.attribute("name").is_none() {
                found.push(call);
            }
            call.blocks.iter().for_each(|b| visit(b, found));
        }
    }
    let mut found = Vec::new();
    visit(&f.body, &mut found);
    let first = found.first()?;
    Some(match found.len() {
        1 => hit(format!("this call of `{}` has no attribute `name`", first.op), first.span),
        n => hit(format!("{n} calls have no attribute `name`, the first of them of `{}`", first.op), first.span),
    })
}

fn in_function(check: &Check, f: &ValidFunction) -> Vec<Hit> {
    match *check {
        Check::ProgramIo(dtype) => io(f, |t| (t.dtype == dtype).then(|| format!("{dtype} is not taken there"))),
        Check::RowBytes(multiple) => io(f, |t| {
            let row = t.shape.last().map_or(Some(1), |d| d.fixed())?;
            let bytes = row.checked_mul(t.dtype.bits()? as usize)?.div_ceil(8);
            (bytes % multiple != 0).then(|| format!("rows of {bytes} bytes are no multiple of {multiple}"))
        }),
        Check::MinIoBytes(min) => {
            io(f, |t| t.n_bytes().filter(|&n| n < min).map(|n| format!("{n} bytes are less than {min}")))
        }
        Check::MaxPacked(max) => io(f, |t| match t.fixed_shape()?[..] {
            [1, _, 1, columns] if columns > max => Some(format!("{columns} columns are more than {max}")),
            _ => None,
        }),
        Check::IoOrder => sides(f).filter_map(|(side, ids)| order(f, side, ids)).collect(),
        Check::UniformIo => sides(f).filter_map(|(side, ids)| sizes(f, side, ids)).collect(),
        Check::OutputNotComputed => outputs(f, |id| {
            let what = match f.value(id).origin {
                Origin::Input => "an input",
                Origin::Constant(_) | Origin::Blob(_) => "a constant",
                Origin::Call => return None,
            };
            Some(format!("is {what}, not computed"))
        }),
        Check::OutputUsed => {
            let used = used(f);
            outputs(f, |id| used.contains(&id).then(|| "is also an argument of a call".into()))
        }
        Check::SoleIdentity => outputs(f, |id| {
            let by = calls(f).find(|c| c.outputs.contains(&id))?;
            (by.op.name == "identity" && f.outputs.len() == 1)
                .then(|| "is the only one, and comes from `identity`".into())
        }),
        Check::Unused => {
            let mut used = used(f);
            used.extend(&f.outputs);
            let idle = |c: &&ValidCall| !c.outputs.is_empty() && !c.outputs.iter().any(|o| used.contains(o));
            calls(f).filter(idle).map(|c| of_call(f, c, "computes what nothing uses".into())).collect()
        }
        Check::MaxWeightsFiles(max) => match weights_files(f) {
            n if n > max => {
                vec![hit(format!("the program refers to {n} weights files, at most {max}"), Span::NONE)]
            }
            _ => Vec::new(),
        },
        Check::MaxWeightsSlots(max) => slots(f, max),
        Check::MinBlobOffset(min) => blobs(f, |offset, _| {
            (offset < min).then(|| format!("is at offset {offset}, in the file's header; records begin at {min}"))
        }),
        Check::BlobAlignment(multiple) => blobs(f, |offset, _| {
            (offset % multiple != 0).then(|| format!("is at offset {offset}, no multiple of {multiple}"))
        }),
        Check::MaxWeightsBytes(max) => blobs(f, |offset, bytes| {
            let end = offset.saturating_add(bytes);
            (end > max).then(|| format!("ends {end} bytes into its file or later, beyond {max}"))
        }),
        Check::Elements(dtype) => values(f, |t| (t.dtype == dtype).then(|| format!("no {dtype} elements here"))),
        Check::MaxRank(max) => {
            values(f, |t| (t.shape.len() > max).then(|| format!("rank {} is above {max}", t.shape.len())))
        }
        Check::MaxAxis(max) => values(f, |t| {
            let over = t.shape.iter().filter_map(|d| d.fixed()).find(|&d| d as u64 > max)?;
            Some(format!("size {over} is above {max}"))
        }),
        Check::MaxSpatial(max) => values(f, |t| {
            let (4, Some(spatial)) = (t.shape.len(), t.shape.get(2..)) else { return None };
            let over = spatial.iter().filter_map(|d| d.fixed()).find(|&d| d > max)?;
            Some(format!("size {over} of a spatial axis is above {max}"))
        }),
        // What a process uses up is counted by devices; the others were looked for in the whole program.
        Check::MaxCompiles(_)
        | Check::MaxLivePrograms(_)
        | Check::BuildInfo
        | Check::CallNames
        | Check::Version(_) => Vec::new(),
        _ => calls(f).filter_map(|c| in_call(check, &At { f, c }).map(|what| of_call(f, c, what))).collect(),
    }
}

/// What in one call breaks the rule.
fn in_call(check: &Check, at: &At<'_>) -> Option<String> {
    let op = at.c.op.name;
    match *check {
        Check::Ops(names) => names.contains(&op).then(|| "is not taken here".into()),
        Check::Passed(name, param) => {
            (op == name && at.arg(param).is_some()).then(|| format!("is passed `{param}`"))
        }
        Check::Unpassed(rows) => {
            let required = rows.iter().find(|(name, _)| *name == op)?.1;
            at.left_out(|param, _| required.contains(&param))
        }
        Check::Defaults => {
            at.left_out(|param, presence| matches!(presence, Presence::Default(_)) && !is_listed(op, param))
        }
        Check::InPlaceArguments => {
            let in_place = |v: &&ValueInfo| v.name.is_empty() && v.span.start != v.span.end;
            let params = at.c.op.params.iter().filter(|p| p.constant);
            let names = params.filter(|p| at.arg(p.name).filter(in_place).is_some()).map(|p| p.name);
            let names: Vec<String> = names.map(|n| format!("`{n}`")).collect();
            (!names.is_empty()).then(|| format!("has {} written in place", names.join(", ")))
        }
        Check::MaxConvAxes(max) => {
            let n = at.conv()?.x.len().checked_sub(2)?;
            (n > max).then(|| format!("convolves over {n} axes, at most {max}"))
        }
        Check::InputAsWeights => {
            at.conv()?;
            let weight = at.arg("weight")?;
            let is_input = weight.origin == Origin::Input;
            is_input.then(|| format!("takes the input `{}` as its weights", weight.name))
        }
        Check::ComputedGroups => {
            at.conv()?;
            let groups = at.ints("groups")?.first().copied()?;
            let is_computed = matches!(at.arg("weight")?.origin, Origin::Input | Origin::Call);
            (groups > 1 && is_computed).then(|| format!("has {groups} groups, and weights that are no constant"))
        }
        Check::MaxBatch(max) => {
            let n = match op {
                "conv" | "conv_transpose" | "avg_pool" | "max_pool" | "l2_pool" => *at.shape("x")?.first()?,
                _ => return None,
            };
            (n > max).then(|| format!("has a batch of {n}, at most {max}"))
        }
        Check::MaxKernel { width, column, square } => {
            let conv = at.conv()?;
            let (h, w) = match conv.weight.get(2..)? {
                [w] => (1, *w),
                [h, w] => (*h, *w),
                _ => return None,
            };
            let fits = match (h, w) {
                (h, 1) => h <= column,
                (h, w) if h == w => h <= square,
                (h, w) => w <= width && h <= column,
            };
            let most = format!("{column}x1, 1x{width} or {square}x{square}");
            (!fits).then(|| format!("has a kernel of {h}x{w}, at most {most}"))
        }
        Check::MaxConvChannels(max) => {
            let n = *at.conv()?.weight.first()?;
            (n > max).then(|| format!("has {n} output channels, at most {max}"))
        }
        Check::MaxPool(max) => {
            if !op.ends_with("_pool") {
                return None;
            }
            let side = at.ints("kernel_sizes")?.into_iter().max()?;
            (side > max as i64).then(|| format!("has a window {side} long, at most {max}"))
        }
        Check::MaxContraction(max) => {
            let n = at.contraction()?;
            (n > max).then(|| format!("sums over {n} products, at most {max}"))
        }
        Check::ContractionMultiple(multiple) => {
            let n = at.contraction()?;
            (n % multiple != 0).then(|| format!("sums over {n} products, no multiple of {multiple}"))
        }
        Check::MaxReduced(max) => {
            if !matches!(op, "reduce_sum" | "reduce_mean" | "reduce_sum_square" | "reduce_l2_norm") {
                return None;
            }
            let shape = at.shape("x")?;
            let n = at.axes(shape.len())?.into_iter().fold(1, |n: usize, a| n.saturating_mul(shape[a]));
            (n > max).then(|| format!("sums over {n} elements, more than {max}"))
        }
        Check::ReducedAxis(name, axis) => {
            let rank = at.shape("x").filter(|_| op == name)?.len();
            (rank > 2 && at.axes(rank)?.contains(&axis)).then(|| format!("reduces axis {axis}"))
        }
        Check::SoftmaxLength => {
            let shape = at.shape("x").filter(|_| op == "softmax")?;
            let axis = at.ints("axis").map_or(Some(-1), |a| a.first().copied())?;
            let n = shape[position(axis, shape.len())?];
            (!n.is_power_of_two()).then(|| format!("is over {n} elements, no power of two"))
        }
        Check::AttentionLength(both, keys) => {
            let length = |name| at.shape(name).and_then(|s| s.iter().rev().nth(1).copied());
            let (q, k) = (length("query")?, length("key")?);
            (q.min(k) >= both || k > keys).then(|| format!("is over {q} queries and {k} keys"))
        }
        Check::MaxSliceStart(max) => {
            let start = at.ints("begin").filter(|_| op.starts_with("slice_by_"))?.last().copied()?;
            (start > max).then(|| format!("begins at {start} of the last axis, at most {max}"))
        }
        Check::MaxPadded(max) => {
            let before = at.shape("x").filter(|_| op == "pad")?.last().copied()?;
            let after = *shape(at.f.value(*at.c.outputs.first()?))?.last()?;
            (after > max && after != before).then(|| format!("makes the last axis {after} long, at most {max}"))
        }
        _ => None,
    }
}

/// Whether a rule of its own asks for the parameter.
fn is_listed(op: &str, param: &str) -> bool {
    let lists = |row: &OpParams| row.0 == op && row.1.contains(&param);
    Rule::all().any(|r| matches!(r.check, Check::Unpassed(rows) if rows.iter().any(lists)))
}

/// A call in its function.
struct At<'a> {
    f: &'a ValidFunction,
    c: &'a ValidCall,
}

/// The shapes of a convolution's arguments.
struct Conv {
    x: Vec<usize>,
    weight: Vec<usize>,
}

impl<'a> At<'a> {
    /// The value bound to a parameter, the first of a tuple; none if there is no such parameter.
    fn arg(&self, name: &str) -> Option<&'a ValueInfo> {
        let (place, _) = self.c.op.param(name)?;
        let ids = self.c.args.get(place)?.as_ref()?.ids();
        Some(self.f.value(*ids.first()?))
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        shape(self.arg(name)?)
    }

    fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.arg(name)?.constant()? {
            Value::Tensor(t) => t.ints().map(<[i64]>::to_vec),
            Value::List(_) => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.ints(name).is_some_and(|v| v.first() == Some(&1))
    }

    fn conv(&self) -> Option<Conv> {
        (self.c.op.name == "conv").then_some(())?;
        Some(Conv { x: self.shape("x")?, weight: self.shape("weight")? })
    }

    /// The length of the axis that a matrix product sums over.
    fn contraction(&self) -> Option<usize> {
        let x = self.shape("x").filter(|_| self.c.op.name == "matmul")?;
        let from_end = if self.flag("transpose_x") { 2 } else { 1 };
        x.len().checked_sub(from_end).map(|axis| x[axis])
    }

    /// The axes that a reduction is over, counted from 0; all if it does not say.
    fn axes(&self, rank: usize) -> Option<Vec<usize>> {
        match self.arg("axes") {
            Some(_) => self.ints("axes")?.into_iter().map(|a| position(a, rank)).collect(),
            None => Some((0..rank).collect()),
        }
    }

    /// Which of the parameters that `wanted` picks were not passed.
    fn left_out(&self, wanted: impl Fn(&str, Presence) -> bool) -> Option<String> {
        let params = self.c.op.params.iter().zip(&self.c.args);
        let missing = params.filter(|(p, arg)| arg.is_none() && wanted(p.name, p.presence));
        let names: Vec<String> = missing.map(|(p, _)| format!("`{}`", p.name)).collect();
        (!names.is_empty()).then(|| format!("is not passed {}", names.join(", ")))
    }
}

/// An axis that may be counted from the end, counted from 0.
fn position(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

fn shape(v: &ValueInfo) -> Option<Vec<usize>> {
    v.ty.as_tensor()?.fixed_shape()
}

/// All calls of a function, those of nested blocks included.
fn calls(f: &ValidFunction) -> impl Iterator<Item = &ValidCall> {
    let mut stack: Vec<&ValidCall> = f.body.calls.iter().rev().collect();
    std::iter::from_fn(move || {
        let call = stack.pop()?;
        stack.extend(call.blocks.iter().flat_map(|b| b.calls.iter()).rev());
        Some(call)
    })
}

fn of_call(f: &ValidFunction, c: &ValidCall, what: String) -> Hit {
    hit(format!("op `{}` (`{}`) {what}", c.op.name, f.label(c)), c.span)
}

/// The values that calls take or nested blocks return.
fn used(f: &ValidFunction) -> HashSet<ValueId> {
    let returned = |b: &ValidBlock| b.outputs.clone();
    calls(f)
        .flat_map(|c| {
            let args = c.args.iter().flatten().flat_map(|a| a.ids().to_vec());
            args.chain(c.blocks.iter().flat_map(returned))
        })
        .collect()
}

fn sides(f: &ValidFunction) -> impl Iterator<Item = (&'static str, &[ValueId])> {
    [("input", &f.inputs[..]), ("output", &f.outputs[..])].into_iter()
}

/// One finding for each input and output that `wrong` finds wrong.
fn io(f: &ValidFunction, wrong: impl Fn(&TensorType) -> Option<String>) -> Vec<Hit> {
    let io = sides(f).flat_map(|(side, ids)| ids.iter().map(move |&id| (side, f.value(id))));
    io.filter_map(|(side, v)| {
        let why = wrong(v.ty.as_tensor()?)?;
        Some(hit(format!("{side} `{}` is {}: {why}", v.name, v.ty), v.span))
    })
    .collect()
}

fn outputs(f: &ValidFunction, wrong: impl Fn(ValueId) -> Option<String>) -> Vec<Hit> {
    let all = f.outputs.iter().map(|&id| (f.value(id), wrong(id)));
    all.filter_map(|(v, why)| Some(hit(format!("output `{}` {}", v.name, why?), v.span))).collect()
}

/// One finding for each value that is computed, passed in or kept in a file, and that `wrong` finds wrong.
fn values(f: &ValidFunction, wrong: impl Fn(&TensorType) -> Option<String>) -> Vec<Hit> {
    let all = f.values.iter().filter(|v| !v.is_scalar_constant());
    all.filter_map(|v| {
        let why = wrong(v.ty.as_tensor()?)?;
        Some(hit(format!("`{}` is {}: {why}", v.name, v.ty), v.span))
    })
    .collect()
}

/// Inputs or outputs that are not declared in the order in which the engine binds them.
fn order(f: &ValidFunction, side: &str, ids: &[ValueId]) -> Option<Hit> {
    let suffix = if side == "output" { "@output" } else { "" };
    let symbol = |id: &ValueId| format!("{}{suffix}", f.value(*id).name);
    let declared: Vec<String> = ids.iter().map(symbol).collect();
    let mut bound = declared.clone();
    bound.sort_unstable();
    let first = declared.iter().zip(&bound).position(|(a, b)| a != b)?;
    let message =
        format!("the {side}s are declared as {}, and bound as {}", declared.join(", "), bound.join(", "));
    Some(hit(message, f.value(ids[first]).span))
}

/// Inputs or outputs of different sizes.
fn sizes(f: &ValidFunction, side: &str, ids: &[ValueId]) -> Option<Hit> {
    let bytes = |id: &ValueId| f.value(*id).ty.as_tensor().and_then(TensorType::n_bytes);
    let sizes: Vec<usize> = ids.iter().filter_map(bytes).collect();
    let (least, most) = (sizes.iter().min()?, sizes.iter().max()?);
    let odd = ids.iter().find(|id| bytes(id) != bytes(&ids[0]))?;
    (least != most).then(|| {
        let message = format!("the {side}s have different sizes, from {least} to {most} bytes");
        hit(message, f.value(*odd).span)
    })
}

fn weights_files(f: &ValidFunction) -> usize {
    f.blobs().map(|(_, b)| b.path.as_str()).collect::<BTreeSet<_>>().len()
}

/// Weights files and scalars in place that take a file's slot.
fn slots(f: &ValidFunction, max: usize) -> Vec<Hit> {
    const ARITHMETIC: [&str; 5] = ["add", "sub", "mul", "real_div", "pow"];
    let scalars = calls(f).filter(|c| ARITHMETIC.contains(&c.op.name)).flat_map(|c| {
        ["x", "y"].into_iter().filter_map(move |p| At { f, c }.arg(p)).filter(|v| {
            v.name.is_empty() && v.constant().is_some() && v.ty.as_tensor().is_some_and(|t| t.shape.is_empty())
        })
    });
    let (n_files, scalars) = (weights_files(f), scalars.collect::<Vec<_>>());
    let n = scalars.len();
    match scalars.last() {
        Some(last) if n_files + n > max => vec![hit(
            format!(
                "{n_files} weights files and {n} scalar operands written in place are more than {max} together"
            ),
            last.span,
        )],
        _ => Vec::new(),
    }
}

/// One finding for each constant of a weights file whose offset and bytes `wrong` finds wrong.
fn blobs(f: &ValidFunction, wrong: impl Fn(u64, u64) -> Option<String>) -> Vec<Hit> {
    f.blobs()
        .filter_map(|(id, blob)| {
            let v = f.value(id);
            let bytes = v.ty.as_tensor().and_then(TensorType::n_bytes).unwrap_or(0);
            Some(hit(format!("`{}` {}", v.name, wrong(blob.offset, bytes as u64)?), v.span))
        })
        .collect()
}
