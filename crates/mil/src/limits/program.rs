//! Rules about a process, the text, inputs and outputs, and weights files.

use super::{Api, Check, Chip, Effect, Grade, RULE, Rule};
use crate::ir::{DType, Version};

pub(super) const RULES: &[Rule] = &[
    // A process.
    Rule {
        name: "compile-budget",
        check: Check::MaxCompiles(119),
        symptom: "later compiles of the process fail without a reason",
        source: "maderix/ANE on M4, Orion constraint 5; others report 119 to 132",
        help: "checkpoint and go on in a new process, or use weights as operands",
        ..RULE
    },
    Rule {
        name: "live-programs",
        check: Check::MaxLivePrograms(127),
        os: "macOS 27",
        api: Api::Any,
        symptom: "the 128th load fails with `Program load failure (0x50004)`",
        source: "qwen-ane on M5 Max; ANEForge says 128; single reports of 169 and 226",
        help: "drop kernels that are no longer needed",
        ..RULE
    },
    // The text.
    Rule {
        name: "build-info",
        check: Check::BuildInfo,
        effect: Effect::Doubtful,
        symptom: "the compile fails with `InvalidMILProgram`",
        grade: Grade::Claimed,
        source: "all projects write it, and none shows what happens without",
        help: "write `[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]` below the version",
        ..RULE
    },
    Rule {
        name: "call-names",
        check: Check::CallNames,
        effect: Effect::Doubtful,
        symptom: "the compile may fail with `InvalidMILProgram`",
        grade: Grade::Claimed,
        source: "all generators for the engine write a `name` for each call; some files of coremlc have none",
        help: "write `[name = string(\"...\")]` after the arguments",
        ..RULE
    },
    Rule {
        name: "program-version",
        check: Check::Version(Version::V1_3),
        chips: &[Chip::M1, Chip::M2],
        os: "macOS 14 and before",
        effect: Effect::Doubtful,
        grade: Grade::Measured,
        source: "maderix/ANE issue 3 and pull request 6; newer systems take it on these chips",
        help: "write `program(1.0)`, which every system takes: `anemone fmt --dialect 1.0`",
        ..RULE
    },
    Rule {
        name: "arguments-left-out",
        check: Check::Unpassed(&[
            ("rsqrt", &["epsilon"]),
            ("log", &["epsilon"]),
            ("gelu", &["mode"]),
            ("concat", &["axis", "interleave"]),
            ("matmul", &["transpose_x", "transpose_y"]),
            ("conv", &["strides", "pad_type", "pad", "dilations", "groups"]),
            ("reduce_sum", &["axes", "keep_dims"]),
            ("reduce_mean", &["axes", "keep_dims"]),
            ("reduce_max", &["axes", "keep_dims"]),
            ("reduce_min", &["axes", "keep_dims"]),
            ("reduce_sum_square", &["axes", "keep_dims"]),
        ]),
        source: "ANEForge's `_compile.py` for `rsqrt`, Orion constraints 10 and 12 for `gelu` and `matmul`; for the \
                 others inferred: they are reported as not supported without and as working with these arguments",
        help: "the engine's compiler knows no defaults: pass every argument",
        ..RULE
    },
    Rule {
        name: "defaults-left-out",
        check: Check::Defaults,
        effect: Effect::Doubtful,
        symptom: "the compile may fail with `InvalidMILProgram`",
        grade: Grade::Inferred,
        source: "most reports of ops that are not supported are of calls that rely on a default",
        help: "the engine's compiler knows no defaults: pass every argument",
        ..RULE
    },
    Rule {
        name: "arguments-in-place",
        check: Check::InPlaceArguments,
        effect: Effect::Doubtful,
        source: "Orion constraint 12 for the flags of `matmul`, generators for the engine for `conv` and `concat`; \
                 not known for other ops",
        help: "define a `const` and pass its name",
        ..RULE
    },
    // Inputs and outputs.
    Rule {
        name: "fp32-io",
        check: Check::ProgramIo(DType::Fp32),
        chips: &[Chip::M1, Chip::M2],
        source: "HiQS Orion fork constraint 18 on M1 Pro and Max, isolated by programs that differ in nothing else; \
                 maderix/ANE issue 3 for M2, where logan-ane takes it under macOS 27",
        help: "declare the program's inputs and outputs as fp16",
        ..RULE
    },
    Rule {
        name: "fp32-io-by-system",
        check: Check::ProgramIo(DType::Fp32),
        chips: &[Chip::M5],
        effect: Effect::Doubtful,
        source: "refused on M5 Max under macOS 27 by qwen-ane's multi-procedure path; taken on M4",
        help: "declare the program's inputs and outputs as fp16",
        ..RULE
    },
    Rule {
        name: "int8-io",
        check: Check::ProgramIo(DType::Int8),
        source: "qwen-ane on M5 Max",
        help: "declare the program's inputs and outputs as fp16 and convert in the program",
        ..RULE
    },
    Rule {
        name: "io-order",
        check: Check::IoOrder,
        effect: Effect::Wrong,
        symptom: "binds buffers in the byte-wise order of the symbols, so those bound as declared are mixed up",
        source: "Orion constraints 3 and 19, all orders of three tested; an output's symbol is its name with \
                 `@output`, by which `y2` comes before `y` (inferred from qwen-ane's reports)",
        help: "anemone's devices bind by name; for other callers, declare them in that order, or under names of one \
               length",
        ..RULE
    },
    Rule {
        name: "io-sizes",
        check: Check::UniformIo,
        effect: Effect::Doubtful,
        symptom: "the run fails with status 0x1d, on M1 it may give zeros",
        source: "Orion constraints 2 and 18; maderix/ANE issue 47 has it that inputs must ascend and outputs descend; \
                 CoreML's own path has no such rule",
        help: "anemone's devices allocate equal sizes; other callers have to",
        ..RULE
    },
    Rule {
        name: "row-bytes",
        check: Check::RowBytes(64),
        effect: Effect::Wrong,
        symptom: "pads rows to 64 bytes, so dense buffers are read at wrong places, or the run fails with 0x1d",
        source: "qwen-ane on M5 Max, field guide on M3 Max, ane-bridge; some say 128 bytes on M5",
        help: "anemone's devices pad rows; for other callers, make the last axis a multiple of 32 fp16 numbers",
        ..RULE
    },
    Rule {
        name: "small-io",
        check: Check::MinIoBytes(49152),
        effect: Effect::Doubtful,
        symptom: "the run fails with status 0x1d",
        source: "Orion constraint 4 on M4 Max; maderix/ANE's tiny_train runs with 4 KB on M4, ane-train with 2 KB on M1",
        help: "anemone's devices allocate more where it is needed",
        ..RULE
    },
    Rule {
        name: "packed-columns",
        check: Check::MaxPacked(16384),
        chips: &[Chip::M3],
        effect: Effect::Doubtful,
        source: "lil-bro on M3 Max: 160 * 96 columns work, 192 * 96 do not; ANEForge allows 65536",
        help: "split the batch",
        ..RULE
    },
    Rule {
        name: "output-not-computed",
        check: Check::OutputNotComputed,
        symptom: "the compile fails with `InvalidMILProgram`",
        source: "Orion constraint 14",
        help: "return only what a call computes, `identity` of it if need be",
        ..RULE
    },
    Rule {
        name: "output-used",
        check: Check::OutputUsed,
        chips: &[Chip::M5],
        effect: Effect::Doubtful,
        symptom: "the output may be wrong",
        source: "qwen-ane on M5 Max; not reported elsewhere",
        help: "return `identity` of it",
        ..RULE
    },
    Rule {
        name: "sole-identity",
        check: Check::SoleIdentity,
        chips: &[Chip::M5],
        effect: Effect::Wrong,
        symptom: "the output is NaN",
        source: "qwen-ane on M5 Max",
        help: "return the value itself",
        ..RULE
    },
    Rule {
        name: "unused-value",
        check: Check::Unused,
        effect: Effect::Doubtful,
        symptom: "the compile may fail, as it does for unused values of width 1",
        source: "qwen-ane on M5 Max",
        help: "remove the call",
        ..RULE
    },
    // Weights files.
    Rule {
        name: "weights-files",
        check: Check::MaxWeightsFiles(16),
        symptom: "the compile fails with `InvalidMILProgram`",
        source: "Orion fork on M4 and M4 Max; one file of 128 tensors compiles",
        help: "keep all constants of a program in one file",
        ..RULE
    },
    Rule {
        name: "weights-slots",
        check: Check::MaxWeightsSlots(16),
        chips: &[Chip::M4],
        os: "macOS 27",
        effect: Effect::Doubtful,
        symptom: "the compile fails with `InvalidMILProgram`",
        source: "Orion fork constraint 16: a scalar operand written in place takes the place of a weights file",
        help: "define such operands as `const`, and keep all constants in one file",
        ..RULE
    },
    Rule {
        name: "blob-offset",
        check: Check::MinBlobOffset(64),
        symptom: "the compile fails with `InvalidMILProgram`",
        source: "offsets 0 and 32, as any that is no record's, on M4 and M5 Max",
        help: "give the offset of the record, which is 64 for the first of a file",
        ..RULE
    },
    Rule {
        name: "blob-alignment",
        check: Check::BlobAlignment(64),
        effect: Effect::Doubtful,
        symptom: "the compile may fail with `InvalidMILProgram`",
        grade: Grade::Inferred,
        source: "coremltools' `StorageFormat.hpp` aligns records to 64 bytes; data that is not aligned works for \
                 ANEForge",
        help: "align records to 64 bytes, and give the offset of the record, not of its data",
        ..RULE
    },
    Rule {
        name: "weights-size",
        check: Check::MaxWeightsBytes(1 << 32),
        effect: Effect::Doubtful,
        symptom: "may read from the wrong place: offsets are 32 bits wide in practice",
        grade: Grade::Claimed,
        source: "qwen-ane; others report a limit of 2 GB",
        help: "split the program",
        ..RULE
    },
];
