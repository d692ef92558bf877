//! Devices: what compiles programs into kernels and runs them.
//!
//! Three traits, object-safe, so that nothing of a model or a trainer depends on where it runs. What a device
//! refuses is in its [`Limits`]; the order, padding and alignment of inputs and outputs are its own business.

pub mod apple;
pub mod faults;
pub mod self_test;
pub mod soft;

pub use apple::AppleDevice;
pub use faults::Faults;
pub use soft::SoftDevice;

pub use crate::soft::engine::Arithmetic;
pub use crate::soft::engine::rules::{Emulation, RULES as ARITHMETIC_RULES, Rule as ArithmeticRule};

use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType, Type};
use anemone_mil::limits::{Chip, Limits};
use anemone_mil::{ValidProgram, Weights};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that runs programs.
pub trait Device: Send + Sync {
    /// What reports call it, such as `software engine (m4, ieee)`.
    fn name(&self) -> String;

    /// What it refuses.
    fn limits(&self) -> &Limits;

    /// Compiles and loads a program with its constants. May be called from any thread, also while kernels run.
    ///
    /// # Errors
    ///
    /// [`Error::is_refused`] if the device does not take the program, [`Error::is_budget`] if the process has no
    /// compile or no place left, [`Error::is_device`] if it failed and may be tried again.
    ///
    /// [`Error::is_refused`]: crate::Error::is_refused
    /// [`Error::is_budget`]: crate::Error::is_budget
    /// [`Error::is_device`]: crate::Error::is_device
    fn compile(&self, program: &ValidProgram, weights: &Weights) -> Result<Box<dyn Kernel>>;

    /// What has been used so far.
    fn usage(&self) -> Usage;

    /// How it rounds, for reports.
    fn arithmetic(&self) -> &'static str {
        "fp16 with f32 accumulation, nearest even"
    }

    /// Whether it works beside the CPU, so that the host gets other work done meanwhile.
    fn is_apart(&self) -> bool {
        true
    }

    /// The energy of the Neural Engine since the device was opened, in joules, other programs' use of it included;
    /// `None` if this device is something else, or the machine does not tell.
    fn engine_energy_j(&self) -> Option<f64> {
        None
    }
}

/// What a process has used of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Compiles so far, those that failed on the device included.
    pub n_compiles: usize,
    /// Programs that are loaded now.
    pub n_live: usize,
}

/// A loaded program. Dropping it unloads it.
pub trait Kernel: Send {
    /// Its inputs and outputs.
    fn signature(&self) -> &Signature;

    /// A buffer for the input of that index, which may be used for any number of runs.
    ///
    /// # Errors
    ///
    /// If there is no such input or no memory.
    fn input_buffer(&self, index: usize) -> Result<Box<dyn Buffer>>;

    /// A buffer for the output of that index.
    ///
    /// # Errors
    ///
    /// If there is no such output or no memory.
    fn output_buffer(&self, index: usize) -> Result<Box<dyn Buffer>>;

    /// Runs the program. The buffers are this kernel's, or another's for a value of the same type.
    ///
    /// # Errors
    ///
    /// If the buffers do not fit ([`Error::is_config`]) or the run failed ([`Error::is_device`]); what is then in
    /// the outputs is nothing to use.
    ///
    /// [`Error::is_config`]: crate::Error::is_config
    /// [`Error::is_device`]: crate::Error::is_device
    fn run(&mut self, inputs: &[&dyn Buffer], outputs: &mut [&mut dyn Buffer]) -> Result<()>;
}

/// The inputs and outputs of a kernel, in the order of its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Name and type of each input.
    pub inputs: Vec<(String, TensorType)>,
    /// Name and type of each output.
    pub outputs: Vec<(String, TensorType)>,
}

impl Signature {
    /// The signature of a program's inputs and outputs.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`](crate::Error::is_config) if one is no tensor that a buffer can carry.
    pub(crate) fn new(inputs: &[(String, Type)], outputs: &[(String, Type)]) -> Result<Signature> {
        let port = |(name, ty): &(String, Type)| match ty {
            Type::Tensor(t) if matches!(t.dtype, DType::Fp16 | DType::Fp32) && t.n_elements().is_some() => {
                Ok((name.clone(), t.clone()))
            }
            other => Err(Error::config(format!(
                "`{name}` is {other}; a kernel's inputs and outputs are fp16 or fp32 tensors of fixed shape"
            ))),
        };
        let side = |ports: &[(String, Type)]| ports.iter().map(port).collect::<Result<_>>();
        Ok(Signature { inputs: side(inputs)?, outputs: side(outputs)? })
    }

    /// Checks how many buffers a run was given.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`](crate::Error::is_config) that names both numbers.
    pub(crate) fn check_counts(&self, n_inputs: usize, n_outputs: usize) -> Result<()> {
        if (n_inputs, n_outputs) == (self.inputs.len(), self.outputs.len()) {
            return Ok(());
        }
        Err(Error::config(format!(
            "the kernel takes {} inputs and {} outputs, got {n_inputs} and {n_outputs}",
            self.inputs.len(),
            self.outputs.len()
        )))
    }

    /// The type of the input of that index.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`](crate::Error::is_config) if there is none.
    pub(crate) fn input(&self, index: usize) -> Result<&TensorType> {
        port("input", &self.inputs, index)
    }

    /// The type of the output of that index.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`](crate::Error::is_config) if there is none.
    pub(crate) fn output(&self, index: usize) -> Result<&TensorType> {
        port("output", &self.outputs, index)
    }
}

fn port<'a>(side: &str, ports: &'a [(String, TensorType)], index: usize) -> Result<&'a TensorType> {
    ports.get(index).map(|(_, ty)| ty).ok_or_else(|| {
        Error::config(format!("the kernel has {} {side}s, there is none of index {index}", ports.len()))
    })
}

/// Memory that a device reads or writes.
pub trait Buffer: Any + Send {
    /// Element type and shape.
    fn ty(&self) -> &TensorType;

    /// Writes all elements in row-major order, converted to the buffer's element type (ties to even).
    ///
    /// # Errors
    ///
    /// If there are more or fewer than the type has.
    fn write(&mut self, elements: &[f32]) -> Result<()>;

    /// Reads all elements in row-major order.
    ///
    /// # Errors
    ///
    /// If there is room for more or fewer than the type has.
    fn read(&self, elements: &mut [f32]) -> Result<()>;
}

/// A content of some buffer: no two contents of this process have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Version {
    /// One that no content has had.
    pub(crate) fn next() -> Version {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Version(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Its number, which no other has.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// Which device to open.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// The best that is known to work here: the software engine, unless whoever asks knows better. The command
    /// `anemone` goes by the verdict of `anemone doctor`.
    #[default]
    Auto,
    /// The Neural Engine.
    Ane,
    /// The software engine.
    Soft,
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which.
    pub select: Select,
    /// The chip whose rules the software engine follows.
    pub chip: Chip,
    /// How the software engine rounds.
    pub arithmetic: Arithmetic,
    /// What goes wrong on purpose, for tests.
    pub faults: Faults,
    /// How the Neural Engine is driven, if it is chosen.
    pub apple: apple::Options,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            select: Select::Auto,
            chip: Chip::M4,
            arithmetic: Arithmetic::Ieee,
            faults: Faults::default(),
            apple: apple::Options::default(),
        }
    }
}

/// Opens a device.
///
/// ```
/// use anemone::device::{self, Options};
///
/// let device = device::open(&Options::default())?;
/// assert_eq!(device.usage().n_compiles, 0);
/// # Ok::<(), anemone::Error>(())
/// ```
///
/// # Errors
///
/// If it is not to be had here; nothing else is opened in its place. If something is asked of the software engine
/// that only the Neural Engine has, or the other way round.
pub fn open(options: &Options) -> Result<Arc<dyn Device>> {
    match options.select {
        Select::Auto | Select::Soft if options.apple.donor_patch => Err(Error::config(
            "the donor patch is for the Neural Engine, and this is the software engine: leave out `--donor-patch` and \
             `device.donor_patch`, or take `--device ane`",
        )),
        Select::Ane if options.arithmetic != Arithmetic::Ieee => Err(Error::config(format!(
            "the arithmetic `{}` is the software engine's, and this is the Neural Engine, which has its own: leave out \
             `--arithmetic` and `device.arithmetic`, or take `--device soft`",
            options.arithmetic
        ))),
        Select::Auto | Select::Soft => {
            let faults = options.faults.clone();
            Ok(Arc::new(SoftDevice::with_arithmetic(options.chip, faults, options.arithmetic)))
        }
        Select::Ane => Ok(Arc::new(AppleDevice::open(&options.apple)?)),
    }
}

/// Whether the Neural Engine's classes can be reached from here and are as expected, and if not, why. Whether the
/// engine then computes what it should is another question, which takes a run.
pub fn ane_status() -> (bool, String) {
    match AppleDevice::open(&apple::Options::default()) {
        Ok(device) => (true, format!("{}: the classes and methods are those expected", device.name())),
        Err(e) => (false, e.to_string()),
    }
}
