//! What the engine's arithmetic consists of, as data: each rule with the chips it is known of, who says so, how
//! well it is known, and whether the software engine computes by it. A test goes through the rows and has an
//! example of each.

use anemone_mil::Chip;
use anemone_mil::limits::Grade;

/// One thing that the Neural Engine computes in its own way.
#[derive(Debug)]
pub struct Rule {
    /// A short name.
    pub name: &'static str,
    /// What is computed, or how.
    pub what: &'static str,
    /// The chips it is said of, or lies between.
    pub chips: &'static [Chip],
    /// Whether the software engine does the same.
    pub emulation: Emulation,
    /// How well it is known.
    pub grade: Grade,
    /// Who says so, and who says otherwise.
    pub source: &'static str,
}

/// Whether the software engine computes by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// In every bit that the source tells.
    Exact,
    /// With numbers of our own where the source tells how large errors are, but not all numbers.
    Fitted,
    /// In a way that the source leaves open.
    Assumed,
    /// Not: too little is known.
    None,
}

/// The rules.
pub const RULES: &[Rule] = &[
    Rule {
        name: "fixed-point",
        what: "`conv`, `conv_transpose`, `linear` and `matmul` of fp16 sum in 32-bit fixed point, in multiples of 2^-16",
        ..RULE
    },
    Rule {
        name: "products",
        what: "a product is rounded to a multiple of 2^-16, the middle away from zero",
        ..RULE
    },
    Rule {
        name: "dropping",
        what: "a product counts as zero if the exponents of its factors sum to -17 or less; that of subnormal numbers \
               is -14",
        source: "M6 microarchitecture study, notes on numerics, H12",
        ..RULE
    },
    Rule {
        name: "overflow",
        what: "a sum whose size reaches 32768 at any moment is infinite and stays so",
        source: "M6 microarchitecture study, notes on numerics; ANEForge finds the cliff of `matmul` at 32759 on all \
                 chips",
        ..RULE
    },
    Rule {
        name: "order",
        what: "the terms of a sum come in the order of the input channels, then of the kernel's rows and columns; it \
               shows only where a sum overflows on its way",
        emulation: Emulation::Assumed,
        grade: Grade::Inferred,
        ..RULE
    },
    Rule {
        name: "bias",
        what: "the bias is what the sum begins with, rounded to a multiple of 2^-16",
        source: "M6 microarchitecture study, notes on numerics, H11",
        ..RULE
    },
    Rule {
        name: "results",
        what: "a sum becomes fp16 by rounding, the middle away from zero: 2049 is 2050",
        ..RULE
    },
    Rule { name: "negative-zero", what: "a sum that is zero is +0", ..RULE },
    Rule {
        name: "large-inputs",
        what: "infinity and NaN as inputs are numbers: 2^16 (1 + m / 1024) with m the bits of the mantissa, so that \
               NaN does not spread; here every NaN is 0x7e00",
        ..RULE
    },
    Rule {
        name: "elementwise",
        what: "arithmetic of single elements is floating point with the range of fp16, subnormal numbers included, the \
               middle between two numbers rounded away from zero",
        ..RULE
    },
    Rule {
        name: "other-elementwise",
        what: "`real_div`, `leaky_relu`, `linear_activation` and casts from fp32 are computed exactly and rounded so too",
        emulation: Emulation::Assumed,
        grade: Grade::Inferred,
        ..RULE
    },
    Rule {
        name: "sigmoid",
        what: "lines between 33 samples, -8 to 8 by 0.5; 0 and 1 beyond",
        source: TABLES,
        ..RULE
    },
    Rule {
        name: "tanh",
        what: "lines between 33 samples, 0 to 4 by 0.125, odd; 1 beyond",
        source: TABLES,
        ..RULE
    },
    Rule {
        name: "erf",
        what: "lines between 33 samples, 0 to 2 by 0.0625, odd; what lies beyond is not told, here it is 1, which is \
               off by 4.6e-3 where the study finds errors of 8.6e-4 at most",
        emulation: Emulation::Assumed,
        source: TABLES,
        ..RULE
    },
    Rule {
        name: "exp",
        what: "2^(x log2(e)), the exponent rounded to fp16, by lines between 33 samples of 2^f",
        source: "M6 microarchitecture study; that the exponent is fp16 is inferred from the largest error, 9.1 units of \
                 the last place at 9.703, which this gives too",
        ..RULE
    },
    Rule {
        name: "log",
        what: "ln(2) (log2(m) + e), by lines between 33 samples of log2 over [0.5, 1], each step rounded to fp16; of \
               what is not positive minus infinity",
        source: "M6 microarchitecture study; that each step is fp16 is inferred from the largest error, 91 units of \
                 the last place at 1.004, which this gives too",
        ..RULE
    },
    Rule {
        name: "roots",
        what: "`sqrt` and `rsqrt` by lines between samples from 0.5 by 1/16, the exponent halved",
        source: "M6 microarchitecture study: errors of 1.2 and 2.1 units of the last place",
        ..RULE
    },
    Rule {
        name: "inverse",
        what: "lines between samples of [0.5, 1] by 1/64, the exponent turned round",
        source: "M6 microarchitecture study: 13.5 units of the last place at 0.01587 with the default epsilon, which \
                 this gives too",
        ..RULE
    },
    Rule {
        name: "gelu",
        what: "lines between 33 points, -4 to 4 by 0.25, one table for every mode; the values are a fit of ours, not \
               those of the hardware, with errors of its size (6.2e-3)",
        emulation: Emulation::Fitted,
        source: TABLES,
        ..RULE
    },
    Rule {
        name: "silu",
        what: "lines between 33 points, -8 to 8 by 0.5; the values are a fit of ours, not those of the hardware, with \
               errors of its size (1.5e-2)",
        emulation: Emulation::Fitted,
        source: TABLES,
        ..RULE
    },
    Rule {
        name: "reductions",
        what: "sums and means are narrow: exact to 2048, here an fp16 number that is rounded after each element",
        chips: &Chip::ALL,
        emulation: Emulation::Assumed,
        source: "ANEForge's op catalogue; which elements are added first is not told",
        ..RULE
    },
    Rule {
        name: "whole-layers",
        what: "`softmax`, `layer_norm`, pooling and functions that have no row here are computed as `ieee` does",
        chips: &Chip::ALL,
        emulation: Emulation::None,
        grade: Grade::Inferred,
        source: "nobody says of what steps they are made",
    },
    Rule {
        name: "int8",
        what: "products of int8 are summed in int32, infinite from 2^31 on, and scaled at last",
        emulation: Emulation::None,
        source: "M6 microarchitecture study, notes on numerics, H50; the software engine has no int8 products",
        ..RULE
    },
    Rule {
        name: "m1",
        what: "sums saturate at 32768 and have partial sums of four in fp16",
        chips: &[Chip::M1],
        emulation: Emulation::None,
        grade: Grade::Claimed,
        source: "the paper that the M6 study argues with (arXiv 2606.22283); in which order and how it rounds is not \
                 told, so an engine by the rules of M1 computes as one of M4, and its report says so",
    },
];

const TABLES: &str = "M6 microarchitecture study: read from compiled programs, errors measured on M6";

/// What most rows say, so that each row says only what is its own.
const RULE: Rule = Rule {
    name: "",
    what: "",
    // M5 lies between those that were measured.
    chips: &[Chip::M4, Chip::M5],
    emulation: Emulation::Exact,
    grade: Grade::Measured,
    source: "M6 microarchitecture study, notes on numerics: the same on M4 and M6",
};
