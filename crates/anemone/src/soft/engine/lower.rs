//! Which ops have steps in the engine's arithmetic, and which steps.

use super::accumulate::Shape;
use super::conv::Conv;
use super::pointwise::Function;
use super::reduce::Reduce;
use super::{Arithmetic, Product, Work};
use crate::error::{Error, Result};
use crate::soft::copy::{Copy, batch_offsets, broadcast, signed, strides};
use crate::soft::plan::{Held, Planner};
use crate::soft::reduce::{Combine, Finish};
use crate::soft::steps::{self, Place, PlaceKind, Step};
use anemone_mil::ir::DType;
use anemone_mil::valid::{ValidCall, ValueId};

impl Planner<'_> {
    /// Plans a call by a step in the engine's arithmetic, if that is asked for and has a rule for the op.
    ///
    /// # Errors
    ///
    /// If there is a rule for the op but no step for this form of it: another arithmetic is no substitute.
    pub(in crate::soft) fn by_engine(&mut self, call: &ValidCall) -> Result<bool> {
        let [output] = call.outputs[..] else { return Ok(false) };
        let is_fp16 = |id: ValueId| self.dtype(id) == Some(DType::Fp16);
        let reads_fp16 = call.args.iter().flatten().flat_map(|a| a.ids()).any(|&id| is_fp16(id));
        let is_ours = is_fp16(output) || self.dtype(output) == Some(DType::Bool) && reads_fp16;
        if self.arithmetic != Arithmetic::Engine || !is_ours || self.n_elements(output) == 0 {
            return Ok(false);
        }
        let planned = match call.op.name {
            "conv" => self.engine_conv(call, output),
            "conv_transpose" => self.engine_conv_transpose(call, output),
            "linear" => self.engine_linear(call, output),
            "matmul" => self.engine_matmul(call, output),
            "cast" if self.arg(call, "x").and_then(|x| self.dtype(x)) == Some(DType::Fp32) => {
                self.engine_step(call, &["x"], Work::ToFp16, output)
            }
            "reduce_sum" => self.engine_reduce(call, output, Combine::Sum, Finish::Nothing),
            "reduce_mean" => self.engine_reduce(call, output, Combine::Sum, Finish::Mean),
            "reduce_max" => self.engine_reduce(call, output, Combine::Max, Finish::Nothing),
            "reduce_min" => self.engine_reduce(call, output, Combine::Min, Finish::Nothing),
            "reduce_sum_square" => self.engine_reduce(call, output, Combine::SumOfSquares, Finish::Nothing),
            "reduce_l1_norm" => self.engine_reduce(call, output, Combine::SumOfSizes, Finish::Nothing),
            "reduce_l2_norm" => self.engine_reduce(call, output, Combine::SumOfSquares, Finish::Root),
            "reduce_log_sum" => self.engine_reduce(call, output, Combine::Sum, Finish::Log),
            _ => match self.engine_function(call) {
                Some((f, operands)) => self.engine_pointwise(call, f, operands, output),
                None => return Ok(false),
            },
        };
        planned.map(|()| true).ok_or_else(|| {
            Error::config(format!(
                "op `{}` (`{}`) has no form like this in the arithmetic `engine`: take `--arithmetic ieee`",
                call.op.name,
                self.f.label(call)
            ))
        })
    }

    /// A step that reads these arguments, those that are passed.
    fn engine_step(&mut self, call: &ValidCall, args: &[&str], work: Work, output: ValueId) -> Option<()> {
        let mut reads = Vec::new();
        for name in args {
            if let Some(id) = self.arg(call, name) {
                reads.push(self.floats(id)?);
            }
        }
        self.engine_write(work, reads, output)
    }

    fn engine_write(&mut self, work: Work, reads: Vec<Place>, output: ValueId) -> Option<()> {
        let place = self.new_place(output)?;
        self.held[output.index()] = Held::At(place.clone());
        self.steps.push(Step {
            work: steps::Work::Engine(work),
            reads,
            writes: vec![place],
            fp16: false,
            once: None,
        });
        Some(())
    }

    fn engine_product(
        &mut self,
        call: &ValidCall,
        args: &[&str],
        (shape, batch): (Shape, Vec<(usize, usize)>),
        by_rows: bool,
        output: ValueId,
    ) -> Option<()> {
        let product = Product { shape, batch: batch.into(), by_rows };
        self.engine_step(call, args, Work::Product(product), output)
    }

    fn engine_conv(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, w) = (self.arg(call, "x")?, self.arg(call, "weight")?);
        let (xs, ws, ys) = (self.shape(x), self.shape(w), self.shape(output));
        let groups = self.args(call).int("groups").ok()? as usize;
        let strides = self.args(call).ints("strides").ok()?.unwrap_or_default();
        let is_point = ws[2..].iter().all(|&k| k == 1) && xs[2..] == ys[2..] && strides.iter().all(|&s| s == 1);
        if groups == 1 && is_point {
            let size: usize = xs[2..].iter().product();
            let shape = Shape { m: ws[0], k: ws[1], n: size, transposed: (false, false) };
            let batch = (0..xs[0]).map(|i| (0, i * ws[1] * size)).collect();
            return self.engine_product(call, &["weight", "x", "bias"], (shape, batch), true, output);
        }
        let windows = self.windows(call, &xs[2..], &ws[2..], &ys[2..])?;
        let conv = Conv::new(&windows, false, groups, ws[1], ws[0] / groups);
        self.engine_step(call, &["x", "weight", "bias"], Work::Conv(conv), output)
    }

    fn engine_conv_transpose(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, w) = (self.arg(call, "x")?, self.arg(call, "weight")?);
        let (xs, ws, ys) = (self.shape(x), self.shape(w), self.shape(output));
        let groups = self.args(call).int("groups").ok()? as usize;
        let windows = self.windows(call, &ys[2..], &ws[2..], &xs[2..])?;
        let conv = Conv::new(&windows, true, groups, xs[1] / groups, ws[1]);
        self.engine_step(call, &["x", "weight", "bias"], Work::Conv(conv), output)
    }

    fn engine_linear(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (xs, ws) = (self.shape(self.arg(call, "x")?), self.shape(self.arg(call, "weight")?));
        let rows = xs[..xs.len() - 1].iter().product();
        let shape = Shape { m: rows, k: ws[1], n: ws[0], transposed: (false, true) };
        self.engine_product(call, &["x", "weight", "bias"], (shape, vec![(0, 0)]), false, output)
    }

    fn engine_matmul(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (xs, ys) = (self.shape(self.arg(call, "x")?), self.shape(self.arg(call, "y")?));
        let (&[ref outer_x @ .., rows_x, columns_x], &[ref outer_y @ .., rows_y, columns_y]) = (&xs[..], &ys[..])
        else {
            return None;
        };
        let args = self.args(call);
        let transposed = (args.bool("transpose_x").ok()?, args.bool("transpose_y").ok()?);
        drop(args);
        let (m, k) = if transposed.0 { (columns_x, rows_x) } else { (rows_x, columns_x) };
        let n = if transposed.1 { rows_y } else { columns_y };
        let out = self.shape(output);
        let offsets = |own: &[usize], size| batch_offsets(own, &out[..out.len() - 2], size);
        let batch = offsets(outer_x, m * k).into_iter().zip(offsets(outer_y, k * n)).collect();
        self.engine_product(call, &["x", "y"], (Shape { m, k, n, transposed }, batch), false, output)
    }

    fn engine_reduce(
        &mut self,
        call: &ValidCall,
        output: ValueId,
        combine: Combine,
        finish: Finish,
    ) -> Option<()> {
        let shape = self.shape(self.arg(call, "x")?);
        let axes = self.args(call).axes("axes", shape.len()).ok()?;
        let reduce = Reduce::new(combine, finish, &shape, &axes);
        self.engine_step(call, &["x"], Work::Reduce(reduce), output)
    }

    /// The function that an op is, and the names of its operands.
    fn engine_function(&self, call: &ValidCall) -> Option<(Function, &'static [&'static str])> {
        let args = self.args(call);
        let number = |name| args.float(name).ok();
        let f = match call.op.name {
            "abs" => Function::Abs,
            "ceil" => Function::Ceil,
            "clip" => Function::Clip(number("alpha")?, number("beta")?),
            "erf" => Function::Erf,
            "exp" => Function::Exp,
            "floor" => Function::Floor,
            "gelu" => Function::Gelu,
            "inverse" => Function::Inverse(number("epsilon")?),
            "leaky_relu" => Function::Leaky(number("alpha")?),
            "linear_activation" => Function::Linear(number("alpha")?, number("beta")?),
            "log" => Function::Log(number("epsilon")?),
            "relu" => Function::Threshold(0.0),
            "relu6" => Function::Clip(0.0, 6.0),
            "round" => Function::Round,
            "rsqrt" => Function::Rsqrt(number("epsilon")?),
            "sigmoid" => Function::Sigmoid,
            "sign" => Function::Sign,
            "silu" => Function::Silu,
            "sqrt" => Function::Sqrt,
            "square" => Function::Square,
            "tanh" => Function::Tanh,
            "threshold" => Function::Threshold(number("alpha")?),
            "select" => return Some((Function::Select, &["cond", "a", "b"])),
            name => {
                let f = match name {
                    "add" => Function::Add,
                    "equal" => Function::Equal,
                    "greater" => Function::Greater,
                    "greater_equal" => Function::GreaterEqual,
                    "less" => Function::Less,
                    "less_equal" => Function::LessEqual,
                    "maximum" => Function::Max,
                    "minimum" => Function::Min,
                    "mul" => Function::Mul,
                    "not_equal" => Function::NotEqual,
                    "real_div" => Function::Div,
                    "sub" => Function::Sub,
                    _ => return None,
                };
                return Some((f, &["x", "y"]));
            }
        };
        Some((f, &["x"]))
    }

    fn engine_pointwise(&mut self, call: &ValidCall, f: Function, args: &[&str], output: ValueId) -> Option<()> {
        let out = self.shape(output);
        let mut reads = Vec::new();
        for name in args {
            let id = self.arg(call, name)?;
            reads.push(self.spread(id, &out)?);
        }
        self.engine_write(Work::Pointwise(f), reads, output)
    }

    /// Where an operand lies that has one element or as many as the result; any other is written out as broadcast.
    fn spread(&mut self, id: ValueId, out: &[usize]) -> Option<Place> {
        let own = self.shape(id);
        let place = self.floats(id)?;
        let n = out.iter().product();
        if place.range.len() == 1 || place.range.len() == n {
            return Some(place);
        }
        let copies = vec![Copy::new(out, (0, &signed(broadcast(&own, out))), (0, &strides(out)))];
        let to = self.buffer(PlaceKind::Floats, n, None);
        let work = steps::Work::Copies { copies, fill: None };
        self.steps.push(Step { work, reads: vec![place], writes: vec![to.clone()], fp16: false, once: None });
        Some(to)
    }
}
