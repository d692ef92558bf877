//! What devices refuse, as data: each rule with its symptom, the grade of its evidence and its source.
//!
//! Sources disagree, and a chip or a system update may change any of this. So a rule is a row of [`RULES`] and
//! never an `if` in a model or a device: validation asks the rows that apply, the software engine enforces them,
//! and whoever is refused is told which rule it was and who says so. Where reports contradict each other, the
//! rule is only a warning and its source says what the other side found.

mod find;
mod ops;
mod program;
mod shape;

use crate::error::{Diagnostic, Severity};
use crate::ir::{DType, Program, Version};
use crate::valid::ValidFunction;
use std::fmt;

/// A generation of Apple's chips, by the name of its Macs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chip {
    /// H13.
    M1,
    /// H14.
    M2,
    /// H15.
    M3,
    /// H16.
    M4,
    /// H17.
    M5,
}

impl Chip {
    /// All, oldest first.
    pub const ALL: [Chip; 5] = [Chip::M1, Chip::M2, Chip::M3, Chip::M4, Chip::M5];

    /// The lower-case name, such as `m4`.
    pub fn as_str(self) -> &'static str {
        ["m1", "m2", "m3", "m4", "m5"][self as usize]
    }

    /// The chip of that name.
    pub fn from_name(name: &str) -> Option<Chip> {
        Chip::ALL.into_iter().find(|c| c.as_str() == name)
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How well a rule is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// Read in source code.
    Source,
    /// Measured on hardware by the source named.
    Measured,
    /// Stated without shown evidence.
    Claimed,
    /// Inferred from several sources.
    Inferred,
}

impl Grade {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Grade::Source => "read in source",
            Grade::Measured => "measured",
            Grade::Claimed => "claimed",
            Grade::Inferred => "inferred",
        }
    }
}

/// What happens to a program that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is not compiled, loaded or run: an error, which the software engine makes too.
    Refused,
    /// It runs, and some of its numbers are wrong: a warning.
    Wrong,
    /// It is refused or goes wrong by some reports only, or where a caller of Apple's interface does not take
    /// precautions as anemone's devices do: a warning.
    Doubtful,
}

impl Effect {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Refused => "refused",
            Effect::Wrong => "wrong numbers",
            Effect::Doubtful => "doubtful",
        }
    }

    /// How bad a finding is.
    pub fn severity(self) -> Severity {
        match self {
            Effect::Refused => Severity::Error,
            Effect::Wrong | Effect::Doubtful => Severity::Warning,
        }
    }
}

/// Which of Apple's interfaces to the engine a rule was seen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// MIL text in memory, `_ANEInMemoryModel`: what anemone uses.
    Text,
    /// `e5rt` of the Espresso framework.
    E5rt,
    /// Both, or the hardware below them.
    Any,
}

impl Api {
    /// What messages call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Api::Text => "in-memory text",
            Api::E5rt => "e5rt",
            Api::Any => "any interface",
        }
    }
}

/// Something that a device refuses or gets wrong.
#[derive(Debug)]
pub struct Rule {
    /// A short name, the code of its diagnostics.
    pub name: &'static str,
    /// What breaks it.
    pub check: Check,
    /// The chips it applies to; empty for all.
    pub chips: &'static [Chip],
    /// The versions of the operating system it was seen on; empty where the source does not say.
    pub os: &'static str,
    /// The interface it was seen on.
    pub api: Api,
    /// Whether it is an error.
    pub effect: Effect,
    /// What happens on the hardware.
    pub symptom: &'static str,
    /// How well it is known.
    pub grade: Grade,
    /// Who says so, and who says otherwise.
    pub source: &'static str,
    /// What to do instead.
    pub help: &'static str,
}

/// An op and parameters of it.
pub type OpParams = (&'static str, &'static [&'static str]);

/// The forms a rule can take: what breaks it. Sizes are in elements unless they say bytes.
#[derive(Debug, PartialEq)]
pub enum Check {
    /// The program has no attribute `buildInfo`.
    BuildInfo,
    /// A call has no attribute `name`.
    CallNames,
    /// The program is of this version.
    Version(Version),
    /// One of these parameters of one of these ops is not passed.
    Unpassed(&'static [OpParams]),
    /// Any other parameter with a default is not passed.
    Defaults,
    /// A constant parameter is passed a constant written in place.
    InPlaceArguments,

    /// An input or output has this element type.
    ProgramIo(DType),
    /// The inputs, or the outputs, are not declared in the byte-wise order of their symbols.
    IoOrder,
    /// The inputs, or the outputs, have different sizes in bytes.
    UniformIo,
    /// The last axis of an input or output is no multiple of this many bytes.
    RowBytes(usize),
    /// An input or output is smaller than this many bytes.
    MinIoBytes(usize),
    /// An input or output of shape `[1, C, 1, S]` has a longer last axis.
    MaxPacked(usize),
    /// An output is an input or a constant.
    OutputNotComputed,
    /// An output is also used by a call.
    OutputUsed,
    /// The only output comes from `identity`.
    SoleIdentity,
    /// What a call computes is neither used nor returned.
    Unused,

    /// More weights files than this are referred to.
    MaxWeightsFiles(usize),
    /// Weights files and scalar operands of arithmetic written in place are more than this together.
    MaxWeightsSlots(usize),
    /// A record of a weights file begins before this many bytes.
    MinBlobOffset(u64),
    /// A record of a weights file does not begin at a multiple of this many bytes.
    BlobAlignment(u64),
    /// A constant lies beyond this many bytes of its weights file.
    MaxWeightsBytes(u64),

    /// One of these ops is called.
    Ops(&'static [&'static str]),
    /// This parameter of this op is passed.
    Passed(&'static str, &'static str),
    /// A convolution over more spatial axes than this.
    MaxConvAxes(usize),
    /// A convolution whose weights are an input of the program.
    InputAsWeights,
    /// A convolution in groups whose weights are no constant.
    ComputedGroups,

    /// A value has this element type.
    Elements(DType),
    /// A tensor has a higher rank.
    MaxRank(usize),
    /// An axis is longer.
    MaxAxis(u64),
    /// The spatial axes of a tensor of rank 4 are longer.
    MaxSpatial(usize),
    /// The first axis of the input of a convolution or pooling is longer.
    MaxBatch(usize),
    /// A convolution's kernel is larger. The three are the limits for the width, for the height if the width is
    /// 1, and for both if they are equal.
    MaxKernel {
        /// Of the width.
        width: usize,
        /// Of the height of a kernel of width 1.
        column: usize,
        /// Of a kernel as high as wide.
        square: usize,
    },
    /// A convolution has more output channels.
    MaxConvChannels(usize),
    /// A pooling window has a longer side.
    MaxPool(usize),
    /// The axis that a matrix product sums over is longer.
    MaxContraction(usize),
    /// The axis that a matrix product sums over is no multiple of this.
    ContractionMultiple(usize),
    /// A sum or mean over more elements.
    MaxReduced(usize),
    /// This op over this axis, counted from 0.
    ReducedAxis(&'static str, usize),
    /// `softmax` over an axis whose length is no power of two.
    SoftmaxLength,
    /// Attention over at least this many queries and keys, or more keys than the second.
    AttentionLength(usize, usize),
    /// A slice that begins further into the last axis.
    MaxSliceStart(i64),
    /// `pad` makes the last axis longer.
    MaxPadded(usize),

    /// The most compiles a process gets.
    MaxCompiles(usize),
    /// The most programs a process may have loaded at once.
    MaxLivePrograms(usize),
}

/// The rules, by topic. Facts and sources: Orion (arXiv 2603.06728) and its forks, maderix/ANE and its issues,
/// qwen-ane's `docs/ANE-REFERENCE.md`, ANEForge's op catalogue, lil-bro, rustane, the M6 microarchitecture study.
pub const RULES: &[&[Rule]] = &[program::RULES, ops::RULES, shape::RULES];

/// What most rows say, so that each row says only what is its own.
const RULE: Rule = Rule {
    name: "",
    check: Check::Ops(&[]),
    chips: &[],
    os: "",
    api: Api::Text,
    effect: Effect::Refused,
    symptom: "the compile fails",
    grade: Grade::Measured,
    source: "",
    help: "",
};

/// The rules of one device.
#[derive(Clone, Debug)]
pub struct Limits {
    name: String,
    rules: Vec<&'static Rule>,
}

impl Limits {
    /// No rules beyond those of the language: what the reference interpreter has.
    pub fn none() -> Limits {
        Limits { name: "none".into(), rules: Vec::new() }
    }

    /// The rules that are known of a chip.
    pub fn of(chip: Chip) -> Limits {
        let rules = Rule::all().filter(|r| r.chips.is_empty() || r.chips.contains(&chip)).collect();
        Limits { name: chip.to_string(), rules }
    }

    /// The name of the chip, or `none`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rules.
    pub fn rules(&self) -> &[&'static Rule] {
        &self.rules
    }

    /// The most compiles a process gets, if that is limited.
    pub fn max_compiles(&self) -> Option<usize> {
        self.rules.iter().find_map(|r| match r.check {
            Check::MaxCompiles(n) => Some(n),
            _ => None,
        })
    }

    /// The most programs a process may have loaded at once, if that is limited.
    pub fn max_live_programs(&self) -> Option<usize> {
        self.rules.iter().find_map(|r| match r.check {
            Check::MaxLivePrograms(n) => Some(n),
            _ => None,
        })
    }

    /// What in a program breaks the rules.
    pub(crate) fn findings(&self, program: &Program, functions: &[ValidFunction]) -> Vec<Diagnostic> {
        self.rules.iter().flat_map(|r| r.findings(program, functions)).collect()
    }
}

impl Rule {
    /// Every rule.
    pub fn all() -> impl Iterator<Item = &'static Rule> {
        RULES.iter().copied().flatten()
    }

    /// The rule of that name.
    pub fn of_name(name: &str) -> Option<&'static Rule> {
        Rule::all().find(|r| r.name == name)
    }

    /// Whether it is a budget of a process, which no program breaks by itself.
    pub fn is_budget(&self) -> bool {
        matches!(self.check, Check::MaxCompiles(_) | Check::MaxLivePrograms(_))
    }

    fn findings(&self, program: &Program, functions: &[ValidFunction]) -> Vec<Diagnostic> {
        let known = [self.grade.as_str(), self.api.as_str(), self.os];
        let known = known.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(", ");
        find::hits(&self.check, program, functions)
            .into_iter()
            .map(|hit| {
                let d =
                    Diagnostic { severity: self.effect.severity(), ..Diagnostic::error(self.name, hit.message) };
                d.at(hit.span, "")
                    .note(format!("on the engine {}", self.symptom))
                    .note(format!("rule `{}`, {known}: {}", self.name, self.source))
                    .note(self.help)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::ir::TensorType;
    use crate::valid::validate;

    #[test]
    fn names_are_unique_and_rules_are_sourced() {
        let mut names: Vec<&str> = Rule::all().map(|r| r.name).collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
        assert!(Rule::all().all(|r| [r.name, r.source, r.help, r.symptom].iter().all(|s| !s.is_empty())));
    }

    #[test]
    fn fp32_io_and_casts_are_refused_on_the_chips_that_do() {
        let mut b = Builder::new(Version::V1_0);
        let x = b.input("x", TensorType::new(DType::Fp32, &[1, 4])).unwrap();
        let y = b.cast(x, DType::Fp16).unwrap();
        let program = b.finish(&[y]).unwrap();
        assert!(validate(program.clone(), &Limits::of(Chip::M4)).is_ok());
        let e = validate(program, &Limits::of(Chip::M1)).unwrap_err();
        assert!(e.is_refused());
        let errors = e.diagnostics().iter().filter(|d| d.severity == Severity::Error);
        assert_eq!(errors.map(|d| d.code).collect::<Vec<_>>(), ["fp32-io", "cast"]);
    }
}
