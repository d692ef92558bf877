//! Functions by tables of 33 fp16 numbers with straight lines between them.
//!
//! Which points the tables hold is read from compiled programs; how the argument is reduced to them is inferred,
//! but where the study publishes the largest error and its place, this gives the same: `exp`, `log`, `inverse`,
//! `sigmoid`.

use super::numbers::round;
use crate::soft::math::{self, Gelu};
use std::sync::LazyLock;

/// The tables of all functions that have one, as f64 numbers on the fp16 grid.
pub(super) struct Tables {
    sigmoid: Table,
    tanh: Table,
    erf: Table,
    gelu: Table,
    silu: Table,
    /// 2^f.
    power: Table,
    /// log2 of [0.5, 1].
    log: Table,
    sqrt: Table,
    rsqrt: Table,
    inverse: Table,
}

/// Points from `first` on, `per_unit` to a unit.
struct Table {
    points: [f64; 33],
    first: f64,
    per_unit: f64,
}

pub(super) static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gelu = |x: f64| f64::from(math::gelu(Gelu::Exact, x as f32));
    Tables {
        sigmoid: Table::of(-8.0, 2.0, sigmoid),
        tanh: Table::of(0.0, 8.0, f64::tanh),
        erf: Table::of(0.0, 16.0, |x| f64::from(math::erf(x as f32))),
        gelu: Table::fitted(-4.0, 4.0, gelu),
        silu: Table::fitted(-8.0, 2.0, |x| x * sigmoid(x)),
        power: Table::of(0.0, 32.0, f64::exp2),
        log: Table::of(0.5, 64.0, f64::log2),
        sqrt: Table::of(0.5, 16.0, f64::sqrt),
        rsqrt: Table::of(0.5, 16.0, |x| 1.0 / x.sqrt()),
        inverse: Table::of(0.5, 64.0, |x| 1.0 / x),
    }
});

impl Table {
    /// Samples of a function.
    fn of(first: f64, per_unit: f64, f: impl Fn(f64) -> f64) -> Table {
        let point = |i: usize| f64::from(round(f(first + i as f64 / per_unit)));
        Table { points: std::array::from_fn(point), first, per_unit }
    }

    /// Points such that the lines are right about midway between them, and the error is at the points, where it is
    /// half of what the second derivative makes of a step: the size of the errors that the study found.
    fn fitted(first: f64, per_unit: f64, f: impl Fn(f64) -> f64) -> Table {
        let half = 0.5 / per_unit;
        Table::of(first, per_unit, |x| 2.0 * f(x) - 0.5 * (f(x - half) + f(x + half)))
    }

    /// On the line between two points.
    #[inline(always)]
    fn at(&self, x: f64) -> f64 {
        let place = (x - self.first) * self.per_unit;
        let place = if place > 0.0 { place } else { 0.0 };
        let place = if place < 32.0 { place } else { 32.0 };
        let i = (place as usize).min(31);
        let (low, high) = (self.points[i], self.points[i + 1]);
        low + (high - low) * (place - i as f64)
    }

    /// The last argument.
    #[inline(always)]
    fn last(&self) -> f64 {
        self.first + 32.0 / self.per_unit
    }

    /// `below` before the first point, `above` behind the last one.
    #[inline(always)]
    fn between(&self, x: f64, below: f64, above: f64) -> f64 {
        let y = if x < self.first { below } else { self.at(x) };
        if x > self.last() { above } else { y }
    }

    /// Of an odd function, whose half is kept; 1 behind the last point.
    #[inline(always)]
    fn odd(&self, x: f64) -> f64 {
        self.between(x.abs(), 0.0, 1.0).copysign(x)
    }
}

/// log2(e) and ln(2) as fp16.
const LOG2_E: f64 = 1.442_382_812_5;
const LN_2: f64 = 0.693_359_375;

/// A positive number as `(m, e)`, `m 2^e` with `m` in [0.5, 1).
#[inline(always)]
fn split(x: f64) -> (f64, i64) {
    let bits = x.to_bits();
    (f64::from_bits(bits & ((1 << 52) - 1) | 1022 << 52), (bits >> 52 & 0x7ff) as i64 - 1022)
}

/// 2^e, `e` being no exponent of a subnormal number.
#[inline(always)]
fn power_of_two(e: i64) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

// Arguments are decoded fp16 numbers; results are not rounded yet.
impl Tables {
    #[inline(always)]
    pub(super) fn sigmoid(&self, x: f64) -> f64 {
        self.sigmoid.between(x, 0.0, 1.0)
    }

    #[inline(always)]
    pub(super) fn tanh(&self, x: f64) -> f64 {
        self.tanh.odd(x)
    }

    #[inline(always)]
    pub(super) fn erf(&self, x: f64) -> f64 {
        self.erf.odd(x)
    }

    #[inline(always)]
    pub(super) fn gelu(&self, x: f64) -> f64 {
        self.gelu.between(x, 0.0, x)
    }

    #[inline(always)]
    pub(super) fn silu(&self, x: f64) -> f64 {
        self.silu.between(x, 0.0, x)
    }

    /// `2^(i + f)` of the fp16 number nearest to `x log2(e)`.
    #[inline(always)]
    pub(super) fn exp(&self, x: f64) -> f64 {
        let t = f64::from(round(x * LOG2_E));
        // Beyond, results are infinite or zero.
        let t = if t > 40.0 { 40.0 } else { t };
        let t = if t < -40.0 { -40.0 } else { t };
        let whole = t.floor();
        self.power.at(t - whole) * power_of_two(whole as i64)
    }

    /// `ln(2) (log2(m) + e)`, every step rounded to fp16.
    #[inline(always)]
    pub(super) fn log(&self, x: f64) -> f64 {
        let (m, e) = split(x);
        let log2 = f64::from(round(f64::from(round(self.log.at(m))) + e as f64));
        if x > 0.0 { log2 * LN_2 } else { f64::NEG_INFINITY }
    }

    #[inline(always)]
    pub(super) fn sqrt(&self, x: f64) -> f64 {
        let (m, e) = split(x);
        let odd = e & 1;
        let y = self.sqrt.at(m * (1 + odd) as f64) * power_of_two((e - odd) >> 1);
        if x > 0.0 { y } else { 0.0 }
    }

    #[inline(always)]
    pub(super) fn rsqrt(&self, x: f64) -> f64 {
        let (m, e) = split(x);
        let odd = e & 1;
        let y = self.rsqrt.at(m * (1 + odd) as f64) * power_of_two(-((e - odd) >> 1));
        if x > 0.0 { y } else { f64::INFINITY }
    }

    #[inline(always)]
    pub(super) fn inverse(&self, x: f64) -> f64 {
        let (m, e) = split(x.abs());
        let y = self.inverse.at(m) * power_of_two(-e);
        (if x == 0.0 { f64::INFINITY } else { y }).copysign(x)
    }
}
