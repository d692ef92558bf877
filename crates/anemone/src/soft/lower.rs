//! Which step an op becomes.

use super::copy::{Copy, batch_offsets, signed, strides};
use super::gather::{Kind, Picks};
use super::gemm::Gemm;
use super::plan::{Held, Planner};
use super::product::{Product, Start};
use super::reduce::{Along, Combine, Finish, Reduce};
use super::steps::{Place, Step, Work};
use super::window::{Conv, Pool, Pooling, Windows};
use anemone_mil::ir::DType;
use anemone_mil::valid::{ValidCall, ValueId};

/// The most axes that reductions count along.
const MOST_AXES: usize = 16;

impl Planner<'_> {
    /// Plans a call by a step of its own; `None` if there is none for it.
    pub(super) fn fast(&mut self, call: &ValidCall) -> Option<()> {
        let mut ids = call.args.iter().flatten().flat_map(|a| a.ids()).chain(&call.outputs);
        // Tensors without elements are left to the definition, but not for an argument such as the shape of a
        // scalar.
        if ids.any(|&id| self.n_elements(id) == 0 && self.constant(id).is_none()) {
            return None;
        }
        if call.op.name == "split" {
            return self.split(call);
        }
        let [output] = call.outputs[..] else { return None };
        match call.op.name {
            "identity" | "reshape" | "expand_dims" | "squeeze" | "flatten2d" | "reshape_like" => {
                let x = self.arg(call, "x")?;
                if self.dtype(x)? == self.dtype(output)? { self.alias(x, output) } else { None }
            }
            "transpose" | "slice_by_index" | "slice_by_size" | "reverse" | "tile" => {
                let x = self.arg(call, "x")?;
                let copy = self.rearranged(call, x, output)?;
                self.copies(vec![(x, copy)], None, output)
            }
            "pad" => self.pad(call, output),
            "concat" => self.concat(call, output),
            "stack" => self.stack(call, output),
            "reduce_sum" => self.reduce(call, output, Combine::Sum, Finish::Nothing),
            "reduce_mean" => self.reduce(call, output, Combine::Sum, Finish::Mean),
            "reduce_max" => self.reduce(call, output, Combine::Max, Finish::Nothing),
            "reduce_min" => self.reduce(call, output, Combine::Min, Finish::Nothing),
            "reduce_sum_square" => self.reduce(call, output, Combine::SumOfSquares, Finish::Nothing),
            "reduce_l1_norm" => self.reduce(call, output, Combine::SumOfSizes, Finish::Nothing),
            "reduce_l2_norm" => self.reduce(call, output, Combine::SumOfSquares, Finish::Root),
            "reduce_log_sum" => self.reduce(call, output, Combine::Sum, Finish::Log),
            "reduce_log_sum_exp" => {
                let along = self.along(call, &self.args(call).axes("axes", self.x_shape(call)?.len()).ok()?)?;
                let x = self.arg(call, "x")?;
                let x = self.floats(x)?;
                self.step(Work::LogSumExp(along), vec![x], output)
            }
            "softmax" => {
                let along = self.along(call, &[self.args(call).axis("axis", self.x_shape(call)?.len()).ok()?])?;
                let x = self.arg(call, "x")?;
                let x = self.floats(x)?;
                self.step(Work::Softmax(along), vec![x], output)
            }
            "layer_norm" => self.layer_norm(call, output),
            "gather" | "gather_along_axis" => self.gather(call, output),
            "scatter" | "scatter_along_axis" => self.scatter(call, output),
            "conv" => self.conv(call, output),
            "conv_transpose" => self.conv_transpose(call, output),
            "avg_pool" | "l2_pool" | "max_pool" => self.pool(call, output),
            "matmul" => self.matmul(call, output),
            "linear" => self.linear(call, output),
            _ => self.pointwise(call, output),
        }
    }

    fn x_shape(&self, call: &ValidCall) -> Option<Vec<usize>> {
        Some(self.shape(self.arg(call, "x")?))
    }

    /// `axes` as one axis of `[outer, n, inner]`, if they lie together.
    fn along(&self, call: &ValidCall, axes: &[usize]) -> Option<Along> {
        let shape = self.x_shape(call)?;
        let long: Vec<usize> = axes.iter().copied().filter(|&a| shape[a] > 1).collect();
        let (first, last) = match (long.first(), long.last()) {
            (Some(&first), Some(&last)) => (first, last),
            // Of one element each.
            _ => (shape.len(), shape.len()),
        };
        if (first..last).any(|a| shape[a] > 1 && !long.contains(&a)) {
            return None;
        }
        let product = |range: &[usize]| range.iter().product();
        let behind = (last + 1).min(shape.len());
        Some(Along { n: product(&shape[first..behind]), inner: product(&shape[behind..]) })
    }

    fn reduce(&mut self, call: &ValidCall, output: ValueId, combine: Combine, finish: Finish) -> Option<()> {
        let x = self.arg(call, "x")?;
        let shape = self.shape(x);
        let axes = self.args(call).axes("axes", shape.len()).ok()?;
        if shape.len() > MOST_AXES {
            return None;
        }
        let x = self.floats(x)?;
        self.step(Work::Reduce(Reduce::new(combine, finish, &shape, &axes)), vec![x], output)
    }

    fn layer_norm(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let args = self.args(call);
        let axes = args.axes("axes", self.x_shape(call)?.len()).ok()?;
        let epsilon = args.float("epsilon").ok()? as f32;
        let along = self.along(call, &axes)?;
        let x = self.arg(call, "x")?;
        let mut reads = vec![self.floats(x)?];
        let mut factor = |planner: &mut Self, name| {
            let Some(id) = planner.arg(call, name) else { return Some(false) };
            reads.push(planner.floats(id)?);
            Some(true)
        };
        let (gamma, beta) = (factor(self, "gamma")?, factor(self, "beta")?);
        self.step(Work::LayerNorm { along, gamma, beta, epsilon }, reads, output)
    }

    /// The one copy that an op is which takes elements of `x` by steps along its axes.
    fn rearranged(&self, call: &ValidCall, x: ValueId, output: ValueId) -> Option<Copy> {
        let (own, out) = (self.shape(x), self.shape(output));
        let steps = signed(strides(&own));
        let to = strides(&out);
        let args = self.args(call);
        let rank = own.len();
        Some(match call.op.name {
            "transpose" => {
                let perm = args.ints("perm").ok()??;
                let from: Vec<isize> = perm.iter().map(|&p| steps[wrapped(p, rank)]).collect();
                Copy::new(&out, (0, &from), (0, &to))
            }
            "reverse" => {
                let axes = args.axes("axes", rank).ok()?;
                let turned = |a: &usize| axes.contains(a);
                let from: Vec<isize> = (0..rank).map(|a| if turned(&a) { -steps[a] } else { steps[a] }).collect();
                let first: isize = (0..rank).filter(turned).map(|a| steps[a] * (own[a] as isize - 1)).sum();
                Copy::new(&out, (first as usize, &from), (0, &to))
            }
            "tile" => {
                let reps = args.ints("reps").ok()??;
                let (mut sizes, mut from, mut targets) = (vec![], vec![], vec![]);
                for axis in 0..rank {
                    sizes.extend([reps[axis] as usize, own[axis]]);
                    from.extend([0, steps[axis]]);
                    targets.extend([to[axis] * own[axis], to[axis]]);
                }
                Copy::new(&sizes, (0, &from), (0, &targets))
            }
            "slice_by_size" => {
                let begin = args.ints("begin").ok()??;
                args.optional("size")?;
                let first: usize = (0..rank).map(|a| wrapped(begin[a], own[a]) * steps[a] as usize).sum();
                Copy::new(&out, (first, &steps), (0, &to))
            }
            _ => {
                args.optional("begin").and(args.optional("end"))?;
                let vector = |name, default: i64| args.ints(name).ok().map(|v| v.unwrap_or(vec![default; rank]));
                let (begin, stride) = (args.ints("begin").ok()??, vector("stride", 1)?);
                let mask = |name: &str| {
                    let id = self.arg(call, name);
                    id.map_or(Some(vec![0; rank]), |id| Some(self.constant(id)?.ints()?.to_vec()))
                };
                let (open, squeeze) = (mask("begin_mask")?, mask("squeeze_mask")?);
                let (mut sizes, mut from, mut first) = (vec![], vec![], 0);
                let mut kept = out.iter();
                for axis in 0..rank {
                    let d = own[axis] as i64;
                    let is_squeezed = squeeze[axis] != 0;
                    let at = match (open[axis] != 0, begin[axis]) {
                        (true, _) => {
                            if stride[axis] > 0 || is_squeezed {
                                0
                            } else {
                                d - 1
                            }
                        }
                        (false, b) if b < 0 => (b + d).max(0),
                        (false, b) => b.min(d - 1),
                    };
                    first += at as usize * steps[axis] as usize;
                    sizes.push(if is_squeezed { 1 } else { *kept.next()? });
                    from.push(steps[axis] * stride[axis] as isize);
                }
                let to = strides(&sizes);
                Copy::new(&sizes, (first, &from), (0, &to))
            }
        })
    }

    /// Plans copies from values into `output`, none if it is a run of elements that lie somewhere already.
    fn copies(&mut self, from: Vec<(ValueId, Copy)>, fill: Option<f32>, output: ValueId) -> Option<()> {
        let (mut reads, mut copies) = (Vec::new(), Vec::new());
        for (id, copy) in from {
            reads.push(self.place(id)?);
            copies.push(copy);
        }
        if let ([copy], None) = (&copies[..], fill)
            && let Some(from) = copy.run_of()
        {
            let Place { kind, slot, range } = reads.pop()?;
            let start = range.start + from;
            let range = start..start + self.n_elements(output);
            self.held[output.index()] = Held::At(Place { kind, slot, range });
            return Some(());
        }
        let place = self.new_place(output)?;
        self.held[output.index()] = Held::At(place.clone());
        self.steps.push(Step {
            work: Work::Copies { copies, fill },
            reads,
            writes: vec![place],
            fp16: false,
            once: None,
        });
        Some(())
    }

    fn pad(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let x = self.arg(call, "x")?;
        let (own, to) = (self.shape(x), strides(&self.shape(output)));
        let args = self.args(call);
        if args.str("mode").ok()? != "constant" {
            return None;
        }
        let (pad, value) = (args.ints("pad").ok()??, args.float("constant_val").ok()? as f32);
        let lead = own.len() - pad.len() / 2;
        let first: usize = pad.chunks(2).enumerate().map(|(i, p)| p[0] as usize * to[lead + i]).sum();
        let steps = signed(strides(&own));
        let copy = Copy::new(&own, (0, &steps), (first, &to));
        self.copies(vec![(x, copy)], Some(value), output)
    }

    fn concat(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let args = self.args(call);
        let (out, interleave) = (self.shape(output), args.bool("interleave").ok()?);
        let axis = args.axis("axis", out.len()).ok()?;
        let (place, _) = call.op.param("values")?;
        let values = call.args[place].as_ref()?.ids();
        let to = strides(&out);
        let mut first = 0;
        let (mut copies, mut fill) = (Vec::new(), None);
        for &id in values {
            let mut own = self.shape(id);
            if own.is_empty() {
                own.push(1);
            }
            let size = own[axis];
            match (&self.held[id.index()], fill) {
                (Held::Uniform(x), None) => fill = Some(*x),
                (Held::Uniform(x), Some(y)) if x.to_bits() == f32::to_bits(y) => {}
                _ => {
                    let steps = signed(strides(&own));
                    let mut to = to.clone();
                    to[axis] *= if interleave { values.len() } else { 1 };
                    copies.push((id, Copy::new(&own, (0, &steps), (first, &to))));
                }
            }
            first += to[axis] * if interleave { 1 } else { size };
        }
        self.copies(copies, fill, output)
    }

    fn stack(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let out = self.shape(output);
        let axis = self.args(call).axis("axis", out.len()).ok()?;
        let (place, _) = call.op.param("values")?;
        let values = call.args[place].as_ref()?.ids();
        let mut to = strides(&out);
        let step = to.remove(axis);
        let copy = |(i, &id): (usize, &ValueId)| {
            let own = self.shape(id);
            let steps = signed(strides(&own));
            (id, Copy::new(&own, (0, &steps), (i * step, &to)))
        };
        let copies = values.iter().enumerate().map(copy).collect();
        self.copies(copies, None, output)
    }

    fn split(&mut self, call: &ValidCall) -> Option<()> {
        let x = self.arg(call, "x")?;
        let own = self.shape(x);
        let axis = self.args(call).axis("axis", own.len()).ok()?;
        let steps = signed(strides(&own));
        self.place(x)?;
        let mut first = 0;
        for &output in &call.outputs {
            let out = self.shape(output);
            if self.uses[output.index()] > 0 {
                let copy = Copy::new(&out, (first, &steps), (0, &strides(&out)));
                self.copies(vec![(x, copy)], None, output)?;
            }
            first += out[axis] * steps[axis] as usize;
        }
        Some(())
    }

    /// The picks of a gather or scatter of data of this shape.
    fn picks(&self, call: &ValidCall, data: &[usize], is_slices: bool) -> Option<Picks> {
        let args = self.args(call);
        let axis = args.axis("axis", data.len()).ok()?;
        let indices = self.shape(self.arg(call, "indices")?);
        let batch = if call.op.param("batch_dims").is_some() { args.int("batch_dims").ok()? as usize } else { 0 };
        let product = |shape: &[usize]| shape.iter().product::<usize>();
        Some(Picks {
            kind: if is_slices { Kind::Slices } else { Kind::Along },
            batch: product(&data[..batch]),
            outer: product(&data[batch..axis]),
            n: data[axis],
            inner: product(&data[axis + 1..]),
            m: if is_slices { product(&indices[batch..]) } else { indices[axis] },
            label: format!("op `{}` (`{}`)", call.op.name, self.f.label(call)),
        })
    }

    fn gather(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, indices) = (self.arg(call, "x")?, self.arg(call, "indices")?);
        let picks = self.picks(call, &self.shape(x), call.op.name == "gather")?;
        let reads = vec![self.place(x)?, self.ints(indices)?];
        self.step(Work::Gather(picks), reads, output)
    }

    fn scatter(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (data, indices, updates) =
            (self.arg(call, "data")?, self.arg(call, "indices")?, self.arg(call, "updates")?);
        let add = match self.args(call).str("mode").ok()? {
            "add" => true,
            "update" => false,
            _ => return None,
        };
        let args = self.args(call);
        let validates = call.op.param("validate_indices").is_some() && args.bool("validate_indices").ok()?;
        if validates {
            return None;
        }
        let picks = self.picks(call, &self.shape(data), call.op.name == "scatter")?;
        let reads = vec![self.floats(data)?, self.ints(indices)?, self.floats(updates)?];
        self.step(Work::Scatter { picks, add }, reads, output)
    }

    /// The windows of a call over an image, or of its transpose over its result; images of one axis get another.
    pub(super) fn windows(
        &self,
        call: &ValidCall,
        image: &[usize],
        kernel: &[usize],
        out: &[usize],
    ) -> Option<Windows> {
        let n = image.len();
        if !(1..=2).contains(&n) {
            return None;
        }
        let args = self.args(call);
        let two = |x: &[usize], one: usize| if n == 1 { [one, x[0]] } else { [x[0], x[1]] };
        let sizes = |name| -> Option<[usize; 2]> {
            let given = if call.op.param(name).is_some() { args.ints(name).ok()? } else { None };
            let given: Vec<usize> = given.unwrap_or(vec![1; n]).iter().map(|&x| x as usize).collect();
            Some(two(&given, 1))
        };
        let (strides, dilations) = (sizes("strides")?, sizes("dilations")?);
        let (image, kernel, out) = (two(image, 1), two(kernel, 1), two(out, 1));
        let pad_type = args.str("pad_type").ok()?;
        let (mut before, mut after) = ([0; 2], [0; 2]);
        match pad_type {
            "valid" => {}
            "custom" => {
                let pad = args.ints("pad").ok()?.unwrap_or(vec![0; 2 * n]);
                let side = |i: usize| (0..n).map(|a| pad[2 * a + i] as usize).collect::<Vec<_>>();
                (before, after) = (two(&side(0), 0), two(&side(1), 0));
            }
            _ => {
                for a in 0..2 {
                    let reach = (kernel[a] - 1) * dilations[a] + 1;
                    let total = ((out[a] - 1) * strides[a] + reach).saturating_sub(image[a]);
                    before[a] = if pad_type == "same_lower" { total - total / 2 } else { total / 2 };
                    after[a] = total - before[a];
                }
            }
        }
        Some(Windows { image, kernel, out, strides, dilations, before, after })
    }

    fn conv(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, w) = (self.arg(call, "x")?, self.arg(call, "weight")?);
        let (xs, ws, ys) = (self.shape(x), self.shape(w), self.shape(output));
        let groups = self.args(call).int("groups").ok()? as usize;
        let strides = self.args(call).ints("strides").ok()?;
        let bias = self.arg(call, "bias");
        let is_pointwise = groups == 1
            && ws[2..].iter().all(|&k| k == 1)
            && xs[2..] == ys[2..]
            && strides.is_none_or(|s| s.iter().all(|&s| s == 1));
        let windows = if is_pointwise { None } else { Some(self.windows(call, &xs[2..], &ws[2..], &ys[2..])?) };
        let mut reads = vec![self.floats(x)?, self.floats(w)?];
        if let Some(bias) = bias {
            reads.push(self.floats(bias)?);
        }
        if let Some(windows) = windows {
            let (n_in, n_out) = (ws[1], ws[0] / groups);
            let conv = Conv { windows, transposed: false, groups, n_in, n_out };
            return self.step(Work::Conv(conv), reads, output);
        }
        // Without a window that is more than a point, it is a product of matrices.
        reads.swap(0, 1);
        let size: usize = xs[2..].iter().product();
        let shape = Gemm { m: ws[0], k: ws[1], n: size, transposed: (false, false) };
        let batch = (0..xs[0]).map(|i| (0, i * ws[1] * size)).collect();
        let start = if bias.is_some() { Start::Rows } else { Start::Zero };
        self.product(Product::new(shape, batch, start), reads, output)
    }

    fn conv_transpose(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, w) = (self.arg(call, "x")?, self.arg(call, "weight")?);
        let (xs, ws, ys) = (self.shape(x), self.shape(w), self.shape(output));
        let groups = self.args(call).int("groups").ok()? as usize;
        let windows = self.windows(call, &ys[2..], &ws[2..], &xs[2..])?;
        let mut reads = vec![self.floats(x)?, self.floats(w)?];
        if let Some(bias) = self.arg(call, "bias") {
            reads.push(self.floats(bias)?);
        }
        let conv = Conv { windows, transposed: true, groups, n_in: xs[1] / groups, n_out: ws[1] };
        self.step(Work::Conv(conv), reads, output)
    }

    fn pool(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let x = self.arg(call, "x")?;
        let (xs, ys) = (self.shape(x), self.shape(output));
        let kernel: Vec<usize> = self.args(call).ints("kernel_sizes").ok()??.iter().map(|&k| k as usize).collect();
        let windows = self.windows(call, &xs[2..], &kernel, &ys[2..])?;
        let (pooling, counts) = match call.op.name {
            "avg_pool" => {
                let exclude = self.args(call).bool("exclude_padding_from_average").ok()?;
                (Pooling::Average, windows.counts(exclude))
            }
            "l2_pool" => (Pooling::Root, Vec::new()),
            _ => (Pooling::Max, Vec::new()),
        };
        let x = self.floats(x)?;
        self.step(Work::Pool(Pool { pooling, windows, counts }), vec![x], output)
    }

    fn linear(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, w, bias) = (self.arg(call, "x")?, self.arg(call, "weight")?, self.arg(call, "bias"));
        let (xs, ws) = (self.shape(x), self.shape(w));
        let rows = xs[..xs.len() - 1].iter().product();
        let shape = Gemm { m: rows, k: ws[1], n: ws[0], transposed: (false, true) };
        let mut reads = vec![self.floats(x)?, self.floats(w)?];
        if let Some(bias) = bias {
            reads.push(self.floats(bias)?);
        }
        let start = if bias.is_some() { Start::Columns } else { Start::Zero };
        self.product(Product::new(shape, [(0, 0)].into(), start), reads, output)
    }

    fn matmul(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let (x, y) = (self.arg(call, "x")?, self.arg(call, "y")?);
        let (xs, ys) = (self.shape(x), self.shape(y));
        if xs.len() < 2 || ys.len() < 2 {
            return None;
        }
        let args = self.args(call);
        let transposed = (args.bool("transpose_x").ok()?, args.bool("transpose_y").ok()?);
        let (rows, columns) = (xs[xs.len() - 2], xs[xs.len() - 1]);
        let (m, k) = if transposed.0 { (columns, rows) } else { (rows, columns) };
        let n = ys[ys.len() - if transposed.1 { 2 } else { 1 }];
        let outer = self.shape(output);
        let offsets = |own: &[usize], size| batch_offsets(&own[..own.len() - 2], &outer[..outer.len() - 2], size);
        let (at_x, at_y) = (offsets(&xs, m * k), offsets(&ys, k * n));
        let reads = vec![self.floats(x)?, self.floats(y)?];
        let mut shape = Gemm { m, k, n, transposed };
        let mut batch: Vec<(usize, usize)> = at_x.iter().copied().zip(at_y.iter().copied()).collect();
        if let Some((reduce, summed)) = self.summed(output) {
            self.done[reduce] = true;
            let product = Product { is_summed: true, ..Product::new(shape, batch.into(), Start::Zero) };
            return self.product(product, reads, summed);
        }
        // With one right side for all, the left ones are one matrix of many rows.
        let is_stacked = !transposed.0 && at_x.iter().enumerate().all(|(i, &at)| at == i * m * k);
        if is_stacked && at_y.iter().all(|&at| at == 0) {
            shape.m *= batch.len();
            batch = vec![(0, 0)];
        }
        self.product(Product::new(shape, batch.into(), Start::Zero), reads, output)
    }

    /// The call that does nothing but add up the products of a batch, and what it gives, if they are read by no
    /// other.
    fn summed(&self, product: ValueId) -> Option<(usize, ValueId)> {
        let [reduce] = self.readers[product.index()][..] else { return None };
        let call = &self.f.body.calls[reduce];
        if call.op.name != "reduce_sum" || self.uses[product.index()] != 1 || self.dtype(product)? == DType::Fp16 {
            return None;
        }
        let shape = self.shape(product);
        let axes = self.args(call).axes("axes", shape.len()).ok()?;
        let batch = shape.len() - 2;
        let fits = (0..shape.len()).all(|a| shape[a] == 1 || axes.contains(&a) == (a < batch));
        fits.then(|| (reduce, call.outputs[0]))
    }
}

/// A place along an axis, counted from the end if negative.
fn wrapped(at: i64, n: usize) -> usize {
    (if at < 0 { at + n as i64 } else { at }) as usize
}
