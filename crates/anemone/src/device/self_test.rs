//! What a device can do, found out by letting it: programs with known answers, then short runs of training held
//! against the software engine.

use super::apple::{self, AppleDevice, ProgramInputs, ProgramIo};
use super::{Device, Faults, SoftDevice};
use crate::config::{Config, Io, Strategy};
use crate::error::{Error, Result};
use crate::train::{Event, Trainer};
use anemone_mil::ir::{BlobRef, DType, TensorType, Version};
use anemone_mil::limits::Limits;
use anemone_mil::weights::WeightsWriter;
use anemone_mil::{Builder, ValidProgram, Weights, validate};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Steps of training in a check.
const N_STEPS: u64 = 20;

/// How far a loss may be from the software engine's: rounding differs, and with it a loss by a few parts in a
/// thousand (two recorded runs of one job, with and without flushing of subnormals, differ by less than 0.001). A
/// kernel of zeros, of stale weights or of swapped operands is off by far more.
const LOSS_TOLERANCE: f32 = 0.02;

/// Sizes of the linear layer with the known answer: channels in, channels out, columns. The columns are no
/// multiple of 32, so that padding is tried too.
const SIZES: [usize; 3] = [64, 32, 48];

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The checks in the order they were made.
    pub checks: Vec<Check>,
    /// Which form of programs works; `None` if none does.
    pub form: Option<Form>,
    /// The strategies in which training came out as on the software engine.
    pub strategies: Vec<Strategy>,
    /// With weights as an operand: how programs may get their inputs for that, the best first.
    #[serde(default)]
    pub inputs: Vec<ProgramInputs>,
    /// Whether a compiled program takes new weights by the donor patch.
    #[serde(default)]
    pub donor_patch: bool,
    /// What calls of the system have said about their failures, those included that led to another form.
    pub failures: Vec<String>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was tried.
    pub what: String,
    /// Whether it came out as it should.
    pub passed: bool,
    /// What came out.
    pub found: String,
}

/// A form of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Whether the version of the language is 1.3, else 1.0.
    pub is_1_3: bool,
    /// Whether fp32 inputs and outputs work too.
    pub fp32_io: bool,
}

impl Verdict {
    /// Whether the device can train at all.
    pub fn is_usable(&self) -> bool {
        self.form.is_some() && !self.strategies.is_empty()
    }

    /// The options with what was found out.
    pub fn apply(&self, options: &mut apple::Options) {
        if let Some(form) = self.form {
            options.version = Some(if form.is_1_3 { Version::V1_3 } else { Version::V1_0 });
        }
        if let Some(&inputs) = self.inputs.first() {
            options.inputs = inputs;
        }
    }

    fn note(&mut self, what: impl Into<String>, result: Result<String>) -> bool {
        let passed = result.is_ok();
        let found = result.unwrap_or_else(|e| e.to_string());
        self.checks.push(Check { what: what.into(), passed, found });
        passed
    }
}

/// Tries the Neural Engine: classes and methods, versions of the language and types of inputs and outputs on a
/// known answer, then training in each strategy with the first form that worked, then the donor patch.
pub fn examine_ane(options: &apple::Options) -> Verdict {
    examine_ane_opened_by(&AppleDevice::open, options)
}

/// The same for a device that is opened in another way, as stand-ins are.
pub fn examine_ane_opened_by(
    open: &dyn Fn(&apple::Options) -> Result<AppleDevice>,
    options: &apple::Options,
) -> Verdict {
    let mut verdict = Verdict::default();
    let opened = open(options);
    let classes = opened.as_ref().map(AppleDevice::name).map_err(|e| Error::unavailable(e.to_string()));
    if !verdict.note("classes and methods are those expected", classes) {
        return verdict;
    }
    for (version, io) in [
        (Version::V1_3, Io::Fp16),
        (Version::V1_0, Io::Fp16),
        (Version::V1_3, Io::Fp32),
        (Version::V1_0, Io::Fp32),
    ] {
        let io_form = if io == Io::Fp32 { ProgramIo::AsWritten } else { ProgramIo::Fp16 };
        let own = apple::Options { version: Some(version), io: io_form, ..options.clone() };
        let what = format!("a linear layer as program({}) with {io:?} inputs and outputs", version.as_str());
        let device = match open(&own) {
            Ok(device) => device,
            Err(e) => {
                verdict.note(what, Err(e));
                continue;
            }
        };
        let result = linear_layer(&device, io).and_then(|found| match device.fell_back_to_fp16() {
            true => Err(Error::refused("the device takes fp16 only")),
            false => Ok(found),
        });
        verdict.failures.extend(device.failures().iter().map(ToString::to_string));
        let is_1_3 = version == Version::V1_3;
        if verdict.note(what, result) {
            match (&mut verdict.form, io) {
                (form @ None, Io::Fp16) => *form = Some(Form { is_1_3, fp32_io: false }),
                (Some(form), Io::Fp32) if form.is_1_3 == is_1_3 => form.fp32_io = true,
                _ => {}
            }
        }
    }
    if verdict.form.is_none() {
        return verdict;
    }
    let mut own = options.clone();
    verdict.apply(&mut own);
    let trains = |verdict: &mut Verdict, strategy, inputs, how: &str| {
        let device = match open(&apple::Options { inputs, ..own.clone() }) {
            Ok(device) => Arc::new(device),
            Err(e) => return verdict.note(training(strategy, how), Err(e)),
        };
        let passed = verdict.note(training(strategy, how), train(device.clone(), strategy));
        verdict.failures.extend(device.failures().iter().map(ToString::to_string));
        passed
    };
    if trains(&mut verdict, Strategy::Baked, ProgramInputs::Separate, "") {
        verdict.strategies.push(Strategy::Baked);
    }
    for (inputs, how) in
        [(ProgramInputs::Separate, ", inputs separate"), (ProgramInputs::Packed, ", inputs packed")]
    {
        if trains(&mut verdict, Strategy::Operand, inputs, how) {
            verdict.inputs.push(inputs);
        }
    }
    if !verdict.inputs.is_empty() {
        verdict.strategies.push(Strategy::Operand);
    }
    let patched =
        open(&apple::Options { donor_patch: true, ..own }).and_then(|device| match device.donor_refusal() {
            Some(why) => Err(Error::device(why)),
            None => Ok("a layer with other weights and no compile: all numbers right".into()),
        });
    verdict.donor_patch = verdict.note("new weights by donor patch", patched);
    verdict
}

/// Tries the software engine in the same way.
pub fn examine_soft(options: &super::Options) -> Verdict {
    let mut verdict = Verdict::default();
    let device = SoftDevice::new(options.chip, Faults::default());
    if verdict.note("a linear layer", linear_layer(&device, Io::Fp16)) {
        verdict.form = Some(Form { is_1_3: true, fp32_io: false });
        for strategy in [Strategy::Baked, Strategy::Operand] {
            let device = Arc::new(SoftDevice::new(options.chip, Faults::default()));
            if verdict.note(training(strategy, ""), train(device, strategy)) {
                verdict.strategies.push(strategy);
            }
        }
    }
    verdict
}

/// What training in a strategy is called.
fn training(strategy: Strategy, how: &str) -> String {
    format!("{N_STEPS} steps of training, weights {strategy:?}{how}").to_lowercase()
}

/// A layer whose numbers are exact in any order of summation, with two sets of weights one after the other, so
/// that a device that keeps the old ones is found out.
pub(crate) fn linear_layer(device: &dyn Device, io: Io) -> Result<String> {
    let [n_in, n_out, n_columns] = SIZES;
    let x = |c: usize, s: usize| ((c + s) % 4) as f32;
    let mut input = vec![0.0; n_in * n_columns];
    input.iter_mut().enumerate().for_each(|(i, v)| *v = x(i / n_columns, i % n_columns));
    for shift in [0, 1] {
        // Products are multiples of 1/4 and sums below 128: fp16 has them all.
        let w = |o: usize, c: usize| ((o + 2 * c + shift) % 5) as f32 / 4.0 - 0.5;
        let (program, weights) = layer_program(io, &w)?;
        let mut kernel = device.compile(&program, &weights)?;
        let (mut xs, mut ys) = (kernel.input_buffer(0)?, kernel.output_buffer(0)?);
        xs.write(&input)?;
        kernel.run(&[&*xs], &mut [&mut *ys])?;
        let mut output = vec![0.0; n_out * n_columns];
        ys.read(&mut output)?;
        let expected = |i: usize| (0..n_in).map(|c| w(i / n_columns, c) * x(c, i % n_columns)).sum::<f32>();
        let wrong: Vec<usize> = (0..output.len()).filter(|&i| output[i] != expected(i)).collect();
        if let Some(&first) = wrong.first() {
            return Err(Error::device(format!(
                "{} of {} numbers are wrong with weights {shift}, the first at {first}: {} instead of {}",
                wrong.len(),
                output.len(),
                output[first],
                expected(first)
            )));
        }
    }
    Ok(format!("{n_in} to {n_out} channels on {n_columns} columns, two sets of weights: all numbers right"))
}

/// A linear layer, to try a device with.
///
/// # Errors
///
/// None that is known; it builds a program.
pub fn known_program() -> Result<(ValidProgram, Weights)> {
    layer_program(Io::Fp16, &|o, c| ((o + 2 * c) % 5) as f32 / 4.0 - 0.5)
}

fn layer_program(io: Io, w: &dyn Fn(usize, usize) -> f32) -> Result<(ValidProgram, Weights)> {
    const PATH: &str = "@model_path/weights/weight.bin";
    let [n_in, n_out, n_columns] = SIZES;
    let elements: Vec<f32> = (0..n_out * n_in).map(|i| w(i / n_in, i % n_in)).collect();
    let mut writer = WeightsWriter::new();
    let offset = writer.add_f32_as(DType::Fp16, &elements)?;
    let mut weights = Weights::new();
    weights.insert(PATH, writer.finish())?;
    let mut b = Builder::new(Version::V1_0);
    let x = b.input("x", TensorType::new(io.dtype(), &[1, n_in, 1, n_columns]))?;
    let x16 = if io == Io::Fp32 { b.cast(x, DType::Fp16)? } else { x };
    let blob = BlobRef { path: PATH.into(), offset };
    let w = b.blob("w", TensorType::new(DType::Fp16, &[n_out, n_in, 1, 1]), blob);
    let y16 = b.pointwise(x16, w)?;
    let y = if io == Io::Fp32 { b.cast(y16, DType::Fp32)? } else { y16 };
    // The rules are for users; here the device itself is asked.
    Ok((validate(b.finish(&[y])?, &Limits::none())?, weights))
}

/// The first steps of the preset `tiny`, held against the software engine's.
fn train(device: Arc<dyn Device>, strategy: Strategy) -> Result<String> {
    let mut config = Config::preset("tiny").ok_or_else(|| Error::config("there is no preset `tiny`"))?;
    config.train.steps = N_STEPS;
    config.train.accumulate = 5;
    config.weights.strategy = strategy;
    config.weights.overlap = false;
    config.weights.io = Io::Fp16;
    let losses = |device| -> Result<Vec<f32>> {
        let mut trainer = Trainer::new(&config, device)?;
        let mut losses = Vec::new();
        loop {
            match trainer.step()? {
                Event::Step(step) => losses.push(step.loss),
                Event::Restart(why) => return Err(Error::device(why)),
                Event::Finished => return Ok(losses),
            }
        }
    };
    let found = losses(device)?;
    let expected = losses(Arc::new(SoftDevice::new(super::Options::default().chip, Faults::default())))?;
    let deviation = |(a, b): (&f32, &f32)| ((a - b) / b).abs();
    let worst = found.iter().zip(&expected).map(deviation).fold(0.0, f32::max);
    // NaN is no number below the tolerance either.
    match found.len() == expected.len() && worst <= LOSS_TOLERANCE && found.iter().all(|x| x.is_finite()) {
        true => Ok(format!(
            "loss {:.6} to {:.6}, at most {worst:.1e} from the software engine's",
            found[0],
            found[found.len() - 1]
        )),
        false => Err(Error::device(format!(
            "losses deviate from the software engine's by {worst}, more than {LOSS_TOLERANCE}: {found:?} instead of \
             {expected:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_software_engine_passes() {
        let verdict = examine_soft(&super::super::Options::default());
        assert!(verdict.is_usable() && verdict.checks.iter().all(|c| c.passed), "{verdict:#?}");
        assert_eq!(verdict.strategies, [Strategy::Baked, Strategy::Operand]);
    }

    #[test]
    fn a_device_that_fails_in_the_middle_does_not_pass() {
        let device =
            Arc::new(SoftDevice::new(super::super::Options::default().chip, "compile@9+".parse().unwrap()));
        assert!(linear_layer(&*device, Io::Fp16).is_ok());
        let e = train(device, Strategy::Baked).unwrap_err();
        assert!(e.to_string().contains("injected"), "{e}");
    }

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn without_an_engine_the_first_check_says_why() {
        let verdict = examine_ane(&apple::Options::default());
        assert!(!verdict.is_usable());
        assert_eq!(verdict.checks.len(), 1);
        assert!(verdict.checks[0].found.contains("Apple's machines"), "{verdict:?}");
    }
}
