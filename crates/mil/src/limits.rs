//! What devices refuse, as data: each rule with its symptom, the grade of its evidence and its source.
//!
//! Sources disagree, and a chip or a system update may change any of this. So a rule is a row of [`RULES`] and
//! never an `if` in a model or a device: validation asks the rows that apply, the software engine enforces them,
//! and whoever is refused is told which rule it was and who says so.

use crate::error::Diagnostic;
use crate::ir::{DType, TensorType};
use crate::valid::{ValidCall, ValidFunction};
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

/// Something that a device refuses.
#[derive(Debug)]
pub struct Rule {
    /// A short name, the code of its diagnostics.
    pub name: &'static str,
    /// What is refused.
    pub check: Check,
    /// The chips it is known of; empty for all.
    pub chips: &'static [Chip],
    /// What happens on the hardware.
    pub symptom: &'static str,
    /// How well it is known.
    pub grade: Grade,
    /// Who says so.
    pub source: &'static str,
    /// What to do instead.
    pub help: &'static str,
}

/// The forms a rule can take.
#[derive(Debug, PartialEq)]
pub enum Check {
    /// Inputs and outputs of the program may not have this element type.
    ProgramIo(DType),
    /// No value of the program may have this element type.
    Elements(DType),
    /// The op may not be called.
    Op(&'static str),
    /// The largest rank of a tensor.
    MaxRank(usize),
    /// The largest size of an axis.
    MaxAxis(u64),
    /// The most weights files a program may refer to.
    MaxWeightsFiles(usize),
    /// The most compiles a process gets.
    MaxCompiles(usize),
    /// The most programs a process may have loaded at once.
    MaxLivePrograms(usize),
}

/// The rules, the more general first. Facts and sources: Orion (arXiv 2603.06728), maderix/ANE and its issues,
/// qwen-ane's `docs/ANE-REFERENCE.md`, ANEForge.
pub const RULES: &[Rule] = &[
    Rule {
        name: "compile-budget",
        check: Check::MaxCompiles(119),
        chips: &[],
        symptom: "later compiles of the process fail without a reason",
        grade: Grade::Measured,
        source: "maderix/ANE on M4, Orion constraint 5; others report 119 to 132",
        help: "checkpoint and go on in a new process, or use weights as operands",
    },
    Rule {
        name: "live-programs",
        check: Check::MaxLivePrograms(127),
        chips: &[],
        symptom: "the 128th load fails with `Program load failure (0x50004)`",
        grade: Grade::Measured,
        source: "qwen-ane on M5 Max, macOS 27; ANEForge says 128; single reports of 169 and 226",
        help: "drop kernels that are no longer needed",
    },
    Rule {
        name: "weights-files",
        check: Check::MaxWeightsFiles(16),
        chips: &[],
        symptom: "the compile fails with `InvalidMILProgram`",
        grade: Grade::Measured,
        source: "Orion fork on M4 and M4 Max; one file of 128 tensors compiles",
        help: "keep all constants of a program in one file",
    },
    Rule {
        name: "fp32-io",
        check: Check::ProgramIo(DType::Fp32),
        chips: &[Chip::M1, Chip::M2],
        symptom: "the compile fails",
        grade: Grade::Measured,
        source: "HiQS Orion fork constraint 18 on M1 Pro and Max; maderix/ANE issue 3 for M2; accepted on M4, and on M2 under macOS 27",
        help: "declare the program's inputs and outputs as fp16",
    },
    Rule {
        name: "cast",
        check: Check::Op("cast"),
        chips: &[Chip::M1, Chip::M2],
        symptom: "the compile fails",
        grade: Grade::Claimed,
        source: "the fallback of maderix/ANE's tiny_train; a later test blames the fp32 boundary alone",
        help: "convert on the host",
    },
    Rule {
        name: "fp64",
        check: Check::Elements(DType::Fp64),
        chips: &[],
        symptom: "the compile fails",
        grade: Grade::Source,
        source: "coremltools' registry has no op that takes fp64",
        help: "fp64 is for the reference interpreter alone; use fp16 or fp32",
    },
    Rule {
        name: "rank",
        check: Check::MaxRank(5),
        chips: &[],
        symptom: "the compile fails",
        grade: Grade::Measured,
        source: "ANEForge's op catalogue",
        help: "merge axes",
    },
    Rule {
        name: "axis-size",
        check: Check::MaxAxis(65536),
        chips: &[],
        symptom: "the compile fails",
        grade: Grade::Measured,
        source: "ANEForge's op catalogue; 16384 for spatial axes up to A15",
        help: "split the axis over several programs",
    },
];

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
        let rules = RULES.iter().filter(|r| r.chips.is_empty() || r.chips.contains(&chip)).collect();
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

    /// What breaks the rules in a function.
    pub(crate) fn findings(&self, f: &ValidFunction) -> Vec<Diagnostic> {
        self.rules.iter().flat_map(|r| r.findings(f)).collect()
    }
}

impl Rule {
    fn finding(&self, message: String) -> Diagnostic {
        Diagnostic::error(self.name, message)
            .note(format!("rule `{}`, {} ({})", self.name, self.grade.as_str(), self.source))
            .note(self.help)
    }

    fn findings(&self, f: &ValidFunction) -> Vec<Diagnostic> {
        match self.check {
            Check::ProgramIo(dtype) => {
                let io = f.inputs.iter().map(|v| ("input", v)).chain(f.outputs.iter().map(|v| ("output", v)));
                io.filter(|(_, v)| f.value(**v).ty.as_tensor().is_some_and(|t| t.dtype == dtype))
                    .map(|(side, v)| {
                        let v = f.value(*v);
                        self.finding(format!(
                            "{side} `{}` is {}: no {dtype} inputs and outputs here",
                            v.name, v.ty
                        ))
                        .at(v.span, "")
                    })
                    .collect()
            }
            Check::Op(op) => calls(f)
                .filter(|c| c.op.name == op)
                .map(|c| self.finding(format!("op `{op}` (`{}`) is not taken here", f.label(c))).at(c.span, ""))
                .collect(),
            Check::Elements(dtype) => {
                self.values(f, |t| (t.dtype == dtype).then(|| format!("no {dtype} elements here")))
            }
            Check::MaxRank(max) => {
                self.values(f, |t| (t.shape.len() > max).then(|| format!("rank {} is above {max}", t.shape.len())))
            }
            Check::MaxAxis(max) => self.values(f, |t| {
                let over = t.shape.iter().filter_map(|d| d.fixed()).find(|&d| d as u64 > max)?;
                Some(format!("size {over} is above {max}"))
            }),
            Check::MaxWeightsFiles(max) => {
                let mut files: Vec<&str> = f.blobs().map(|(_, b)| b.path.as_str()).collect();
                files.sort_unstable();
                files.dedup();
                match files.len() > max {
                    true => {
                        vec![self.finding(format!(
                            "the program refers to {} weights files, at most {max}",
                            files.len()
                        ))]
                    }
                    false => Vec::new(),
                }
            }
            // Budgets of a process: the device counts.
            Check::MaxCompiles(_) | Check::MaxLivePrograms(_) => Vec::new(),
        }
    }

    /// One finding for each value that is computed or passed in (constants are folded) and that `wrong` finds wrong.
    fn values(&self, f: &ValidFunction, wrong: impl Fn(&TensorType) -> Option<String>) -> Vec<Diagnostic> {
        f.values
            .iter()
            .filter(|v| !v.is_scalar_constant())
            .filter_map(|v| {
                let why = wrong(v.ty.as_tensor()?)?;
                Some(self.finding(format!("`{}` is {}: {why}", v.name, v.ty)).at(v.span, ""))
            })
            .collect()
    }
}

/// All calls of a function, those of nested blocks included.
fn calls(f: &ValidFunction) -> impl Iterator<Item = &ValidCall> {
    let mut stack: Vec<&ValidCall> = f.body.calls.iter().rev().collect();
    std::iter::from_fn(move || {
        let call = stack.pop()?;
        stack.extend(call.blocks.iter().flat_map(|b| b.calls.iter().rev()));
        Some(call)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::ir::{TensorType, Version};
    use crate::valid::validate;

    #[test]
    fn names_are_unique_and_rules_are_sourced() {
        let mut names: Vec<&str> = RULES.iter().map(|r| r.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
        assert!(RULES.iter().all(|r| !r.source.is_empty() && !r.help.is_empty() && !r.symptom.is_empty()));
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
        let codes: Vec<&str> = e.diagnostics().iter().map(|d| d.code).collect();
        assert_eq!(codes, ["fp32-io", "cast"]);
    }

    #[test]
    fn sizes_above_the_limits_are_refused() {
        for (shape, code) in [(&[1usize; 6][..], "rank"), (&[1, 70000], "axis-size")] {
            let mut b = Builder::new(Version::V1_3);
            let x = b.input("x", TensorType::new(DType::Fp16, shape)).unwrap();
            let y = b.relu(x).unwrap();
            let e = validate(b.finish(&[y]).unwrap(), &Limits::of(Chip::M4)).unwrap_err();
            assert_eq!(e.diagnostics()[0].code, code);
        }
    }
}
