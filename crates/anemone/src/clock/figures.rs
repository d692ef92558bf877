//! The figures: rows of quantity, chip, value, grade and source.
//!
//! Projects are named as in the field: maderix/ANE and its pull requests, rane, lil-bro (a fork of maderix's
//! dynamic trainer), ANEForge, Orion and its fork by HiQS-Labs, qwen-ane, rustane. Where an author gives several
//! numbers, the source says which was taken and why.

use super::Quantity::*;
use super::{Quantity, Row};
use anemone_mil::limits::Chip::{self, *};
use anemone_mil::limits::Grade::{self, *};

const fn row(quantity: Quantity, chip: Chip, value: f64, grade: Grade, source: &'static str) -> Row {
    Row { quantity, chip, value, grade, source }
}

/// Bytes of the weights that the static Stories110M programs have compiled in: 12 layers of 7,077,888 weights,
/// once for the forward and once for the backward pass, in fp16.
const STORIES_BYTES: f64 = 12.0 * 7_077_888.0 * 2.0 * 2.0;

/// What of a compile of the 72 static Stories110M programs is due to their weights, as bytes a second: what
/// remains beside the M4's 55 ms for four programs of the tiny job, loads included.
const fn compiled_weights(total_s: f64) -> f64 {
    STORIES_BYTES / (total_s - 72.0 * 13.75e-3)
}

/// All figures, at most one of a quantity and chip.
pub(super) const ROWS: &[Row] = &[
    row(
        Dispatch,
        M1,
        143e-6,
        Measured,
        "rane on an M1 Pro: a whole product of 64x64 matrices, whose arithmetic is below 1 us; rane gives 0.24 ms elsewhere, \
         which its own whole calls contradict",
    ),
    row(Dispatch, M2, 140e-6, Claimed, "reported of an M2, by whom is not recorded"),
    row(
        Dispatch,
        M3,
        120e-6,
        Measured,
        "lil-bro on an M3 Max: what is fixed, beside arithmetic that it finds nearly free up to 1024x1024x256",
    ),
    row(Dispatch, M4, 88e-6, Inferred, "the geometric middle of 0.065 to 0.12 ms, which is reported of M4 and M5"),
    row(Dispatch, M5, 65e-6, Claimed, "the middle of the best reports, 60 to 70 us"),
    row(
        Convolution,
        M3,
        0.3 * 9.98e12,
        Inferred,
        "maderix's probe on an M3 Pro reaches 9.98 TFLOP/s in graphs of 16 to 64 convolutions, of which a single one is said \
         to reach 30 % (lil-bro disputes the share)",
    ),
    row(
        Convolution,
        M4,
        0.3 * 18.6e12,
        Inferred,
        "maderix's probe reaches 18.6 TFLOP/s (11.7 on an M4 mini) in graphs of 16 to 64 convolutions, of which a single one \
         is said to reach 30 % (lil-bro disputes the share)",
    ),
    row(
        Convolution,
        M5,
        7.0e12,
        Measured,
        "qwen-ane on an M5 Max: weights [16480, 5120], 512 positions; maderix's probe of deep graphs reaches 12.2",
    ),
    row(Product, M1, 2.7e12, Measured, "ANEForge's peak of matrix products; 4.6 on an M1 Max"),
    row(Product, M2, 3.4e12, Measured, "ANEForge's peak of matrix products, on an M2 Pro"),
    row(Product, M4, 5.4e12, Measured, "ANEForge's peak of matrix products"),
    row(Product, M5, 8.7e12, Measured, "ANEForge's peak of matrix products; 10.0 on an M5 Pro"),
    row(
        Weights,
        M4,
        67e9,
        Claimed,
        "reported of an M4, by whom is not recorded; weights are read again at every call",
    ),
    row(Weights, M5, 150e9, Claimed, "about, reported of an M5 Max and an M6"),
    row(
        Activations,
        M4,
        49.5e9,
        Inferred,
        "the geometric middle of 35 to 70 GB/s, whose chip is not named; the M4's, because most figures are",
    ),
    row(
        Transfer,
        M3,
        12.8e9,
        Inferred,
        "lil-bro on an M3 Max: 14 ms of a Stories110M step convert and copy; the inputs and outputs of its linear layers, \
         counted by anemone, are 179 MB of fp16. For fp32 inputs and outputs the same bytes a second are assumed",
    ),
    row(
        Compile,
        M4,
        55e-3 / 4.0 - 1.7e-3,
        Inferred,
        "maderix/ANE pull request 23: 55 ms for the four programs of the tiny job, less their loads as on an M5 (twice as much \
         if a mean over the batches of its pipeline, which compiles for every other one, is meant); reports are 11 to 90 ms",
    ),
    row(
        Compile,
        M5,
        11e-3,
        Measured,
        "maderix's probe of a program of 256 channels; another one, of 64 channels, gives 33 ms, load included",
    ),
    row(
        CompiledWeights,
        M1,
        compiled_weights(11.1),
        Inferred,
        "HiQS-Labs on an M1 Pro: 72 programs of Stories110M compiled in 11.1 s, less the M4's time a program; 9.4 s on an M1 \
         Max",
    ),
    row(
        CompiledWeights,
        M4,
        compiled_weights(7.6),
        Inferred,
        "maderix/ANE: 72 programs of Stories110M compiled in 7.6 s, less the time a program; 3.9 s on an M4 Pro, 4.2 s on an \
         M4 Max",
    ),
    row(Load, M5, 1.7e-3, Measured, "maderix's probe of a program of 256 channels; others say 2 to 10 ms"),
    row(
        Overlap,
        M4,
        1.13,
        Measured,
        "maderix/ANE issue 24 and pull request 23: steps beside a compile take about 13 % longer",
    ),
    row(
        Restart,
        M4,
        50e-3,
        Claimed,
        "maderix/ANE and Orion, constraint 15, of chips not named: about 50 ms and the compiles",
    ),
];
