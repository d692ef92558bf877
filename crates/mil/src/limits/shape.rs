//! Rules about element types and sizes.

use super::{Api, Check, Chip, Effect, Grade, RULE, Rule};
use crate::ir::DType;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "fp64",
        check: Check::Elements(DType::Fp64),
        api: Api::Any,
        grade: Grade::Source,
        source: "coremltools' registry has no op that takes fp64",
        help: "fp64 is for the reference interpreter alone; use fp16 or fp32",
        ..RULE
    },
    Rule {
        name: "rank",
        check: Check::MaxRank(5),
        api: Api::Any,
        source: "ANEForge's op catalogue",
        help: "merge axes",
        ..RULE
    },
    Rule {
        name: "axis-size",
        check: Check::MaxAxis(65536),
        api: Api::Any,
        source: "ANEForge's op catalogue; of output channels, qwen-ane has 62080 compiling and 124160 failing",
        help: "split the axis over several programs",
        ..RULE
    },
    Rule {
        name: "spatial-size",
        check: Check::MaxSpatial(16384),
        chips: &[Chip::M1, Chip::M2],
        api: Api::Any,
        source: "ANEForge's op catalogue, for chips up to A15",
        help: "split the axis over several programs",
        ..RULE
    },
    Rule {
        name: "batch-size",
        check: Check::MaxBatch(4096),
        api: Api::Any,
        source: "ANEForge's op catalogue, M6 microarchitecture study table 5-2",
        help: "split the batch",
        ..RULE
    },
    Rule {
        name: "conv-kernel",
        check: Check::MaxKernel { width: 15, column: 31, square: 16 },
        chips: &[Chip::M2, Chip::M3, Chip::M4, Chip::M5],
        api: Api::Any,
        source: "ANEForge's op catalogue, M6 microarchitecture study table 5-2",
        help: "split the kernel into convolutions of its parts and add them",
        ..RULE
    },
    Rule {
        name: "conv-kernel-m1",
        check: Check::MaxKernel { width: 13, column: 31, square: 13 },
        chips: &[Chip::M1],
        api: Api::Any,
        source: "ANEForge's op catalogue",
        help: "split the kernel into convolutions of its parts and add them",
        ..RULE
    },
    Rule {
        name: "conv-many-channels",
        check: Check::MaxConvChannels(31999),
        effect: Effect::Doubtful,
        source: "Orion constraint 16 has 32000 rejected; maderix/ANE runs a classifier of 32000 channels",
        help: "split the output channels over several convolutions",
        ..RULE
    },
    Rule {
        name: "pool-size",
        check: Check::MaxPool(8),
        api: Api::Any,
        source: "ANEForge's op catalogue, M6 microarchitecture study table 5-2",
        help: "pool in two steps",
        ..RULE
    },
    Rule {
        name: "matmul-contraction",
        check: Check::MaxContraction(32768),
        chips: &[Chip::M3, Chip::M4, Chip::M5],
        api: Api::Any,
        source: "ANEForge's op catalogue",
        help: "split the sum over several products and add them",
        ..RULE
    },
    Rule {
        name: "matmul-contraction-old",
        check: Check::MaxContraction(16384),
        chips: &[Chip::M1, Chip::M2],
        api: Api::Any,
        source: "ANEForge's op catalogue, for chips up to A15",
        help: "split the sum over several products and add them",
        ..RULE
    },
    Rule {
        name: "matmul-multiple",
        check: Check::ContractionMultiple(32),
        chips: &[Chip::M1],
        effect: Effect::Wrong,
        symptom: "the product is zero",
        source: "maderix/ANE issue 47 on M1; not reported from other chips",
        help: "pad both operands with zeros",
        ..RULE
    },
    Rule {
        name: "narrow-sums",
        check: Check::MaxReduced(2048),
        api: Api::E5rt,
        effect: Effect::Wrong,
        symptom: "sums lose digits: they are accumulated in few bits",
        source: "ANEForge: exact up to 2048 elements, wide in a matrix product",
        help: "multiply by a matrix of ones",
        ..RULE
    },
    Rule {
        name: "channel-mean",
        check: Check::ReducedAxis("reduce_mean", 1),
        effect: Effect::Doubtful,
        source: "qwen-ane on M5 Max for 512 channels of 32; `reduce_sum` over 128 channels of 6144 works",
        help: "multiply `reduce_sum` by the inverse of the number",
        ..RULE
    },
    Rule {
        name: "softmax-length",
        check: Check::SoftmaxLength,
        effect: Effect::Doubtful,
        symptom: "the compile fails with `InvalidMILProgram`",
        source: "Espresso (christopherkarani) on M3 Max; not reported elsewhere",
        help: "pad the axis with large negative numbers",
        ..RULE
    },
    Rule {
        name: "attention-length",
        check: Check::AttentionLength(512, 2048),
        api: Api::E5rt,
        effect: Effect::Wrong,
        symptom: "the result is wrong or slow",
        source: "ANEForge on M5 Pro",
        help: "attend in chunks of at most 256 keys",
        ..RULE
    },
    Rule {
        name: "slice-start",
        check: Check::MaxSliceStart(4094),
        chips: &[Chip::M1, Chip::M2],
        api: Api::E5rt,
        effect: Effect::Wrong,
        symptom: "begins the slice at 4094",
        source: "ANEForge on M1 and M2",
        help: "slice along another axis",
        ..RULE
    },
    Rule {
        name: "padded-size",
        check: Check::MaxPadded(9216),
        effect: Effect::Doubtful,
        source: "qwen-ane on M5 Max: `pad` and `add` work at width 9216 and fail at 11264",
        help: "pad on the host",
        ..RULE
    },
];
