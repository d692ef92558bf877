//! The arguments of a call, as type rules and evaluations see them.

use super::{Const, OpDef, OpError, OpResult, Presence, Value};
use crate::ir::{DType, Dim, TensorType, Type};
use crate::tensor::{Tensor, round_float};

/// The arguments of one call, by parameter.
pub struct Args<'a> {
    /// The op.
    pub def: &'static OpDef,
    /// What each parameter is bound to, in the order of `def.params`; `None` where the argument was left out.
    pub operands: Vec<Option<Operand<'a>>>,
}

/// What a parameter is bound to.
#[derive(Clone, Debug)]
pub enum Operand<'a> {
    /// One value.
    One(Bound<'a>),
    /// A tuple of values.
    Many(Vec<Bound<'a>>),
}

/// A value as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Its type.
    pub ty: &'a Type,
    /// Its value: always there in an evaluation, in a type rule for constants only.
    pub value: Option<&'a Value>,
    /// Whether it is a constant of the program, of its text or of a weights file.
    pub constant: bool,
}

impl<'a> Bound<'a> {
    /// The tensor, where known.
    pub fn tensor(&self) -> Option<&'a Tensor> {
        match self.value {
            Some(Value::Tensor(t)) => Some(t),
            _ => None,
        }
    }
}

impl<'a> Args<'a> {
    fn place(&self, name: &'static str) -> usize {
        // Only rows of the table call this, with names from their own row.
        self.def.param(name).unwrap_or_else(|| panic!("op `{}` has no parameter `{name}`", self.def.name)).0
    }

    /// What `name` is bound to, if anything.
    pub fn get(&self, name: &'static str) -> Option<Bound<'a>> {
        match &self.operands[self.place(name)] {
            Some(Operand::One(b)) => Some(*b),
            Some(Operand::Many(bs)) => bs.first().copied(),
            None => None,
        }
    }

    /// Whether an argument was passed.
    pub fn has(&self, name: &'static str) -> bool {
        self.operands[self.place(name)].is_some()
    }

    /// All values bound to a variadic parameter.
    pub fn many(&self, name: &'static str) -> Vec<Bound<'a>> {
        match &self.operands[self.place(name)] {
            Some(Operand::One(b)) => vec![*b],
            Some(Operand::Many(bs)) => bs.clone(),
            None => Vec::new(),
        }
    }

    /// The value bound to a required parameter.
    pub fn bound(&self, name: &'static str) -> OpResult<Bound<'a>> {
        self.get(name).ok_or_else(|| OpError::arg(name, "is missing"))
    }

    /// The type of a required tensor.
    pub fn ty(&self, name: &'static str) -> OpResult<&'a TensorType> {
        let b = self.bound(name)?;
        b.ty.as_tensor().ok_or_else(|| OpError::arg(name, format!("has type {}, expected a tensor", b.ty)))
    }

    /// The element type of a required tensor.
    pub fn dtype(&self, name: &'static str) -> OpResult<DType> {
        Ok(self.ty(name)?.dtype)
    }

    /// The shape of a required tensor.
    pub fn shape(&self, name: &'static str) -> OpResult<&'a [Dim]> {
        Ok(&self.ty(name)?.shape)
    }

    /// The value of a required tensor; an error in a type rule if it is not known there.
    pub fn tensor(&self, name: &'static str) -> OpResult<&'a Tensor> {
        self.bound(name)?.tensor().ok_or_else(|| OpError::arg(name, "must be a constant"))
    }

    /// The value of an optional tensor.
    pub fn optional(&self, name: &'static str) -> Option<&'a Tensor> {
        self.get(name).and_then(|b| b.tensor())
    }

    fn default(&self, name: &'static str) -> Option<Const> {
        match self.def.params[self.place(name)].presence {
            Presence::Default(c) => Some(c),
            _ => None,
        }
    }

    /// The element type of floats that were left out: that of the first argument.
    fn default_float(&self) -> DType {
        let first = self.operands.iter().flatten().find_map(|o| match o {
            Operand::One(b) => b.ty.as_tensor(),
            Operand::Many(bs) => bs.first()?.ty.as_tensor(),
        });
        first.map(|t| t.dtype).filter(|d| d.is_float()).unwrap_or(DType::Fp32)
    }

    fn scalar<T>(
        &self,
        name: &'static str,
        what: &str,
        of_const: impl Fn(Const) -> Option<T>,
        of_tensor: impl Fn(&Tensor) -> Option<T>,
    ) -> OpResult<T> {
        if !self.has(name) {
            return self.default(name).and_then(of_const).ok_or_else(|| OpError::arg(name, "is missing"));
        }
        let t = self.tensor(name)?;
        of_tensor(t)
            .filter(|_| t.len() == 1)
            .ok_or_else(|| OpError::arg(name, format!("has type {}, expected {what}", t.ty())))
    }

    /// A constant integer, or its default.
    pub fn int(&self, name: &'static str) -> OpResult<i64> {
        let of_const = |c| match c {
            Const::Int(i) => Some(i64::from(i)),
            _ => None,
        };
        self.scalar(name, "an integer", of_const, |t| t.ints()?.first().copied())
    }

    /// A constant number, or its default.
    pub fn float(&self, name: &'static str) -> OpResult<f64> {
        let of_const = |c| match c {
            Const::Float(x) => Some(round_float(self.default_float(), x)),
            _ => None,
        };
        self.scalar(name, "a number", of_const, |t| t.to_f64s().first().copied())
    }

    /// A constant boolean, or its default.
    pub fn bool(&self, name: &'static str) -> OpResult<bool> {
        let of_const = |c| match c {
            Const::Bool(b) => Some(b),
            _ => None,
        };
        self.scalar(name, "a bool", of_const, |t| t.ints()?.first().map(|&i| i != 0))
    }

    /// A constant string, or its default.
    pub fn str(&self, name: &'static str) -> OpResult<&'a str> {
        if !self.has(name) {
            return match self.default(name) {
                Some(Const::Str(s)) => Ok(s),
                _ => Err(OpError::arg(name, "is missing")),
            };
        }
        let t = self.tensor(name)?;
        match t.strs() {
            Some([s]) => Ok(s),
            _ => Err(OpError::arg(name, format!("has type {}, expected a string", t.ty()))),
        }
    }

    /// A constant vector of integers (a scalar counts as one element), or its default, or `None` if it was left
    /// out and has none.
    pub fn ints(&self, name: &'static str) -> OpResult<Option<Vec<i64>>> {
        if !self.has(name) {
            return Ok(match self.default(name) {
                Some(Const::Ints(i)) => Some(i.iter().map(|&i| i.into()).collect()),
                Some(Const::Int(i)) => Some(vec![i.into()]),
                _ => None,
            });
        }
        let t = self.tensor(name)?;
        match t.ints() {
            Some(i) if t.rank() <= 1 => Ok(Some(i.to_vec())),
            _ => Err(OpError::arg(name, format!("has type {}, expected a vector of integers", t.ty()))),
        }
    }

    /// `axis` of a tensor of rank `rank`, counted from the end if negative, as an index.
    pub fn axis(&self, name: &'static str, rank: usize) -> OpResult<usize> {
        normalize_axis(name, self.int(name)?, rank)
    }

    /// The axes of a tensor of rank `rank` as sorted indices, each once; all of them if the argument was left out.
    pub fn axes(&self, name: &'static str, rank: usize) -> OpResult<Vec<usize>> {
        let Some(axes) = self.ints(name)? else { return Ok((0..rank).collect()) };
        let mut axes = axes.iter().map(|&a| normalize_axis(name, a, rank)).collect::<OpResult<Vec<_>>>()?;
        axes.sort_unstable();
        match axes.windows(2).find(|w| w[0] == w[1]) {
            Some(w) => Err(OpError::arg(name, format!("names axis {} twice", w[0]))),
            None => Ok(axes),
        }
    }
}

fn normalize_axis(name: &'static str, axis: i64, rank: usize) -> OpResult<usize> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_start).ok().filter(|&a| a < rank).ok_or_else(|| {
        OpError::arg(
            name,
            format!("is {axis}, expected {} to {} for a tensor of rank {rank}", -(rank as i64), rank as i64 - 1),
        )
    })
}

/// The types of a call's outputs: the parameters' own rules, then the op's.
///
/// # Errors
///
/// If an argument is missing, is no constant where it must be one, has an element type the op does not take, or
/// breaks the op's type rule.
pub fn infer(args: &Args<'_>) -> OpResult<Vec<Type>> {
    let mut groups: Vec<(char, &'static str, DType)> = Vec::new();
    for (p, operand) in args.def.params.iter().zip(&args.operands) {
        let bounds: &[Bound<'_>] = match operand {
            Some(Operand::One(b)) => std::slice::from_ref(b),
            Some(Operand::Many(bs)) => bs,
            None if p.presence == Presence::Required => return Err(OpError::arg(p.name, "is missing")),
            None => continue,
        };
        for b in bounds {
            let (Type::Tensor(t) | Type::State(t)) = b.ty else { continue };
            if !p.types.contains(&t.dtype) {
                let takes: Vec<&str> = p.types.iter().map(|d| d.as_str()).collect();
                return Err(OpError::arg(
                    p.name,
                    format!("has type {t}, expected elements of {}", takes.join(", ")),
                ));
            }
            match groups.iter().find(|(g, ..)| *g == p.group) {
                Some((_, other, dtype)) if *dtype != t.dtype => {
                    return Err(OpError::arg(
                        p.name,
                        format!("has type {t}, expected {dtype} elements like `{other}`"),
                    ));
                }
                Some(_) => {}
                None if p.group == ' ' => {}
                None => groups.push((p.group, p.name, t.dtype)),
            }
        }
    }
    let types = (args.def.infer)(args)?;
    // The interpreter holds 8 bytes an element.
    let fits = |t: &TensorType| {
        t.fixed_shape().is_none()
            || t.n_elements().and_then(|n| n.checked_mul(8)).is_some_and(|n| isize::try_from(n).is_ok())
    };
    match types.iter().filter_map(Type::as_tensor).find(|t| !fits(t)) {
        Some(t) => Err(OpError::new(format!("gives {t}, which is too large for any memory"))),
        None => Ok(types),
    }
}
