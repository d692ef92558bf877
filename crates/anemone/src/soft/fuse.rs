//! Which functions of single elements become one chain.
//!
//! Chains stay open while a function is planned: calls of as many elements join the same chain, until a step needs
//! one of its results. So chains are as long as they can be, and results that only the chain itself reads are
//! never kept.

use super::copy::broadcast;
use super::math::Gelu;
use super::plan::{Held, Planner, place_kind};
use super::pointwise::{Chain, Function, Load, MOST_LOADS, MOST_OPS, MOST_STORES, Op, Source};
use super::steps::{IntFunction, Place, PlaceKind, Step, Work};
use anemone_mil::ir::DType;
use anemone_mil::valid::{ValidCall, ValueId};

/// A chain that may still grow.
pub(super) struct Open {
    pub(super) n: usize,
    loads: Vec<(Place, Load)>,
    ops: Vec<Op>,
    /// For each function, how many reads of its result are still to come.
    to_come: Vec<usize>,
    /// The values that are results of its functions.
    members: Vec<(ValueId, usize)>,
}

impl Planner<'_> {
    /// Plans a call of a function of single elements.
    pub(super) fn pointwise(&mut self, call: &ValidCall, output: ValueId) -> Option<()> {
        let name = call.op.name;
        let to = self.dtype(output)?;
        let one = |planner: &mut Self, f| {
            let x = planner.arg(call, "x")?;
            planner.join(f, &[x], output)
        };
        let args = self.args(call);
        let number = |name| args.float(name).ok().map(|x| x as f32);
        let f = match name {
            "abs" => Function::Abs,
            "ceil" => Function::Ceil,
            "clamped_relu" => {
                // The smaller of beta and what the leaky function gives: two functions.
                let (alpha, beta) = (number("alpha")?, number("beta")?);
                drop(args);
                return self.clamped(call, output, alpha, beta);
            }
            "clip" => Function::Clip(number("alpha")?, number("beta")?),
            "elu" => Function::Elu(number("alpha")?),
            "erf" => Function::Erf,
            "exp" => Function::Exp,
            "floor" => Function::Floor,
            "gelu" => Function::Gelu(match args.str("mode").ok()? {
                "EXACT" => Gelu::Exact,
                "TANH_APPROXIMATION" => Gelu::Tanh,
                _ => Gelu::Sigmoid,
            }),
            "inverse" => Function::Inverse(number("epsilon")?),
            "leaky_relu" => Function::Leaky(number("alpha")?),
            "linear_activation" => Function::Linear(number("alpha")?, number("beta")?),
            "log" => Function::Log(number("epsilon")?),
            "logical_not" => Function::Not,
            "relu" => Function::Relu,
            "relu6" => Function::Clip(0.0, 6.0),
            "round" => Function::Round,
            "rsqrt" => Function::Rsqrt(number("epsilon")?),
            "sigmoid" => Function::Sigmoid,
            "sign" => Function::Sign,
            "silu" => Function::Silu,
            "softplus" => Function::Softplus,
            "softsign" => Function::Softsign,
            "sqrt" => Function::Sqrt,
            "square" => Function::Square,
            "tanh" => Function::Tanh,
            "threshold" => Function::Threshold(number("alpha")?),
            "cast" => {
                drop(args);
                return self.cast(call, output, to);
            }
            "select" => {
                let args = [self.arg(call, "cond")?, self.arg(call, "a")?, self.arg(call, "b")?];
                return self.join(Function::Select, &args, output);
            }
            _ => {
                let f = binary(name)?;
                let (x, y) = (self.arg(call, "x")?, self.arg(call, "y")?);
                return match self.dtype(x).and_then(place_kind)? {
                    PlaceKind::Floats => self.join(f, &[x, y], output),
                    PlaceKind::Ints => self.join_ints(f, x, y, output),
                };
            }
        };
        drop(args);
        one(self, f)
    }

    fn clamped(&mut self, call: &ValidCall, output: ValueId, alpha: f32, beta: f32) -> Option<()> {
        // Rounding in between changes nothing only where the leaky part is exact.
        if self.dtype(output)? == DType::Fp16 && alpha != 0.0 {
            return None;
        }
        let x = self.arg(call, "x")?;
        self.join(Function::Leaky(alpha), &[x], output)?;
        let Held::Pending(n, op) = self.held[output.index()] else { return None };
        let open = self.open.iter_mut().find(|c| c.n == n)?;
        let last = Op {
            f: Function::Min,
            args: [Source::Op(op), Source::Constant(beta), Source::Constant(0.0)],
            fp16: open.ops[op].fp16,
            straight: None,
        };
        open.ops.push(last);
        // The leaky part may be the value of another call too.
        let reads = self.uses[output.index()];
        open.to_come.push(reads);
        open.to_come[op] -= reads;
        open.members.retain(|(id, _)| *id != output);
        open.members.push((output, open.ops.len() - 1));
        self.held[output.index()] = Held::Pending(n, open.ops.len() - 1);
        Some(())
    }

    fn cast(&mut self, call: &ValidCall, output: ValueId, to: DType) -> Option<()> {
        let x = self.arg(call, "x")?;
        let from = self.dtype(x)?;
        match (place_kind(from)?, place_kind(to)?) {
            (PlaceKind::Floats, PlaceKind::Floats) => match (from, to) {
                (DType::Bool, _) | (DType::Fp16, DType::Fp16 | DType::Fp32) | (DType::Fp32, DType::Fp32) => {
                    self.alias(x, output)
                }
                (_, DType::Bool) => self.join(Function::ToBool, &[x], output),
                _ => self.join(Function::Identity, &[x], output),
            },
            (PlaceKind::Ints, PlaceKind::Ints) => self.alias(x, output),
            (PlaceKind::Floats, PlaceKind::Ints) => {
                let x = self.floats(x)?;
                self.step(Work::ToInts, vec![x], output)
            }
            (PlaceKind::Ints, PlaceKind::Floats) if to != DType::Bool => {
                let x = self.ints(x)?;
                self.step(Work::ToFloats, vec![x], output)
            }
            _ => None,
        }
    }

    /// The same elements under another name: nothing to do.
    pub(super) fn alias(&mut self, x: ValueId, output: ValueId) -> Option<()> {
        match self.held[x.index()].clone() {
            Held::Pending(n, op) => {
                let uses = self.uses[output.index()];
                let open = self.open.iter_mut().find(|c| c.n == n)?;
                open.to_come[op] = (open.to_come[op] + uses).saturating_sub(1);
                open.members.push((output, op));
                self.held[output.index()] = Held::Pending(n, op);
            }
            Held::Uniform(x) => self.held[output.index()] = Held::Uniform(x),
            _ => self.held[output.index()] = Held::At(self.place(x)?),
        }
        Some(())
    }

    /// Adds a function to the open chain of its number of elements.
    fn join(&mut self, f: Function, args: &[ValueId], output: ValueId) -> Option<()> {
        let to = self.dtype(output)?;
        let is_float = |id: &ValueId| self.dtype(*id).and_then(place_kind) == Some(PlaceKind::Floats);
        if place_kind(to) != Some(PlaceKind::Floats) || !args.iter().all(is_float) {
            return None;
        }
        let (shape, n) = (self.shape(output), self.n_elements(output));
        if let Some(open) = self.open.iter().find(|c| c.n == n) {
            let n_stores = open.to_come.iter().filter(|&&n| n > 0).count();
            let is_full = open.loads.len() + 3 > MOST_LOADS || open.ops.len() + 2 > MOST_OPS;
            if is_full || n_stores >= MOST_STORES {
                self.close(n);
            }
        }
        // What comes from elsewhere must lie somewhere first; that may close any other chain.
        let mut sources = [Source::Constant(0.0); 3];
        let mut loads = [None, None, None];
        for (i, &id) in args.iter().enumerate() {
            match self.held[id.index()] {
                Held::Uniform(x) => sources[i] = Source::Constant(x),
                Held::Pending(m, op) if m == n => sources[i] = Source::Op(op),
                _ => {
                    let own = self.shape(id);
                    let load = if self.n_elements(id) == n {
                        Load::Dense
                    } else {
                        Load::new(&shape, &broadcast(&own, &shape))
                    };
                    loads[i] = Some((self.floats(id)?, load));
                }
            }
        }
        let open = match self.open.iter().position(|c| c.n == n) {
            Some(i) => &mut self.open[i],
            None => {
                self.open.push(Open { n, loads: vec![], ops: vec![], to_come: vec![], members: vec![] });
                self.open.last_mut()?
            }
        };
        for (i, source) in sources.iter_mut().enumerate() {
            if let Source::Op(op) = *source {
                open.to_come[op] = open.to_come[op].saturating_sub(1);
            }
            if let Some(load) = loads[i].take() {
                let found = open.loads.iter().position(|l| *l == load);
                *source = Source::Load(found.unwrap_or_else(|| {
                    open.loads.push(load);
                    open.loads.len() - 1
                }));
            }
        }
        let fp16 = to == DType::Fp16;
        let same = |op: &Op| op.f.is(f) && op.args == sources && op.fp16 == fp16;
        let uses = self.uses[output.index()];
        let op = match open.ops.iter().position(same) {
            Some(op) => {
                open.to_come[op] += uses;
                op
            }
            None => {
                open.ops.push(Op { f, args: sources, fp16, straight: None });
                open.to_come.push(uses);
                open.ops.len() - 1
            }
        };
        open.members.push((output, op));
        self.held[output.index()] = Held::Pending(n, op);
        Some(())
    }

    /// Ends the open chain of `n` elements: it becomes a step.
    pub(super) fn close(&mut self, n: usize) {
        let Some(i) = self.open.iter().position(|c| c.n == n) else { return };
        let open = self.open.swap_remove(i);
        let (mut stores, mut writes) = (Vec::new(), Vec::new());
        let mut ops = open.ops;
        let mut place_of = vec![None; ops.len()];
        for (op, _) in open.to_come.iter().enumerate().filter(|(_, n)| **n > 0) {
            let Some((id, _)) = open.members.iter().find(|m| m.1 == op) else { continue };
            let Some(place) = self.new_place(*id) else { continue };
            let is_read = ops.iter().any(|o| o.args.contains(&Source::Op(op)));
            ops[op].straight = (!is_read).then_some(stores.len());
            stores.push(op);
            writes.push(place.clone());
            place_of[op] = Some(place);
        }
        for (id, op) in open.members {
            self.held[id.index()] = place_of[op].clone().map_or(Held::Nothing, Held::At);
        }
        let (reads, loads) = open.loads.into_iter().unzip();
        let chain = Chain { n, loads, ops, stores };
        self.steps.push(Step { work: Work::Chain(chain), reads, writes, fp16: false, once: None });
    }

    fn join_ints(&mut self, f: Function, x: ValueId, y: ValueId, output: ValueId) -> Option<()> {
        let f = match f {
            Function::Add => IntFunction::Add,
            Function::Sub => IntFunction::Sub,
            Function::Mul => IntFunction::Mul,
            Function::Max => IntFunction::Max,
            Function::Min => IntFunction::Min,
            Function::Equal => IntFunction::Equal,
            Function::NotEqual => IntFunction::NotEqual,
            Function::Greater => IntFunction::Greater,
            Function::GreaterEqual => IntFunction::GreaterEqual,
            Function::Less => IntFunction::Less,
            Function::LessEqual => IntFunction::LessEqual,
            _ => return None,
        };
        let n = self.n_elements(output);
        let fits = |id| [1, n].contains(&self.n_elements(id));
        if !fits(x) || !fits(y) {
            return None;
        }
        let reads = vec![self.ints(x)?, self.ints(y)?];
        self.step(Work::Ints(f), reads, output)
    }
}

/// The functions of two numbers by the names of their ops.
fn binary(name: &str) -> Option<Function> {
    Some(match name {
        "add" => Function::Add,
        "equal" => Function::Equal,
        "floor_div" => Function::FloorDiv,
        "greater" => Function::Greater,
        "greater_equal" => Function::GreaterEqual,
        "less" => Function::Less,
        "less_equal" => Function::LessEqual,
        "logical_and" => Function::And,
        "logical_or" => Function::Or,
        "logical_xor" => Function::Xor,
        "maximum" => Function::Max,
        "minimum" => Function::Min,
        "mul" => Function::Mul,
        "not_equal" => Function::NotEqual,
        "real_div" => Function::Div,
        "sub" => Function::Sub,
        _ => return None,
    })
}
