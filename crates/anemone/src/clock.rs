//! A simulated clock: what work would take on the engine of a chip, by figures that others have published.
//!
//! Nothing here was measured by anemone, and nothing here looks at the real clock. Each figure is a row of a table
//! with its unit, its source and how well it is known; a chip of which nobody has published a figure gets that of
//! the nearest chip, marked as assumed. `docs/clock.md` compares what comes out with published times that are not
//! in the table.
//!
//! The model: a call of the engine takes the dispatch floor and then the longer of its arithmetic and of reading
//! weights and activations; the host copies inputs and outputs in between, one call after the other. New kernels
//! take a time a program and a time a byte of weights compiled in. The host's own work is left out: it depends on
//! the host's processor, of which the table knows nothing.

mod estimate;
mod figures;

use anemone_mil::limits::{Chip, Grade};
pub use estimate::{Comparison, Counts, Estimate, KernelTime, RunTime, StepTime};
use figures::ROWS;
use serde::{Serialize, Serializer};
use std::fmt;

/// Something that takes time on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quantity {
    /// What a call takes however little it computes.
    Dispatch,
    /// Arithmetic of a program that is one convolution.
    Convolution,
    /// Arithmetic of a matrix product of two inputs.
    Product,
    /// Reading weights, which happens at every call.
    Weights,
    /// Reading and writing a call's other inputs and outputs.
    Activations,
    /// Copies between the host's f32 and the surfaces of the engine, conversion to fp16 included.
    Transfer,
    /// A compile of a program with next to no weights.
    Compile,
    /// What is added to a compile by weights compiled in.
    CompiledWeights,
    /// Loading what was compiled.
    Load,
    /// By how much a compile in the background slows steps down.
    Overlap,
    /// Replacing the process, compiles left out.
    Restart,
}

impl Quantity {
    /// All.
    pub const ALL: [Quantity; 11] = [
        Quantity::Dispatch,
        Quantity::Convolution,
        Quantity::Product,
        Quantity::Weights,
        Quantity::Activations,
        Quantity::Transfer,
        Quantity::Compile,
        Quantity::CompiledWeights,
        Quantity::Load,
        Quantity::Overlap,
        Quantity::Restart,
    ];

    /// What reports call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Quantity::Dispatch => "dispatch",
            Quantity::Convolution => "convolution",
            Quantity::Product => "matrix product",
            Quantity::Weights => "weights read",
            Quantity::Activations => "activations",
            Quantity::Transfer => "host's copies",
            Quantity::Compile => "compile",
            Quantity::CompiledWeights => "weights compiled",
            Quantity::Load => "load",
            Quantity::Overlap => "compile beside",
            Quantity::Restart => "restart",
        }
    }

    /// The unit of its figures.
    pub fn unit(self) -> Unit {
        match self {
            Quantity::Dispatch | Quantity::Compile | Quantity::Load | Quantity::Restart => Unit::Seconds,
            Quantity::Convolution | Quantity::Product => Unit::FlopPerSecond,
            Quantity::Weights | Quantity::Activations | Quantity::Transfer | Quantity::CompiledWeights => {
                Unit::BytesPerSecond
            }
            Quantity::Overlap => Unit::Times,
        }
    }
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds each.
    Seconds,
    /// Bytes a second.
    BytesPerSecond,
    /// Floating-point operations a second.
    FlopPerSecond,
    /// As many times as long.
    Times,
}

impl Unit {
    /// Its symbol.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::BytesPerSecond => "B/s",
            Unit::FlopPerSecond => "FLOP/s",
            Unit::Times => "times",
        }
    }

    /// A value with a prefix that fits it, such as `0.09 ms`.
    fn format(self, value: f64) -> String {
        match self {
            Unit::Seconds => seconds(value),
            Unit::BytesPerSecond if value < 1e9 => format!("{:.1} MB/s", value / 1e6),
            Unit::BytesPerSecond => format!("{:.1} GB/s", value / 1e9),
            Unit::FlopPerSecond => format!("{:.1} TFLOP/s", value / 1e12),
            Unit::Times => format!("{value:.2} times"),
        }
    }
}

/// A time with a unit that fits it.
fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 0.1 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.2} s"),
        s => format!("{s:.0} s"),
    }
}

/// A figure that somebody has published, or that follows from such.
struct Row {
    quantity: Quantity,
    /// The generation of the chip; the source says which of it.
    chip: Chip,
    /// In the quantity's unit.
    value: f64,
    grade: Grade,
    /// Who says so, of which machine, who says otherwise, and how it follows where it is inferred.
    source: &'static str,
}

/// What the clock of a chip goes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Of what.
    pub quantity: Quantity,
    /// In the quantity's unit.
    pub value: f64,
    /// The chip it was published of.
    pub chip: Chip,
    /// Whether that is another than the clock's.
    pub assumed: bool,
    /// How well it is known of that chip.
    pub grade: Grade,
    /// Who says so.
    pub source: &'static str,
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            quantity: &'static str,
            value: f64,
            unit: &'static str,
            chip: &'static str,
            assumed: bool,
            grade: &'static str,
            source: &'static str,
        }
        let Figure { quantity, value, chip, assumed, grade, source } = *self;
        Written {
            quantity: quantity.as_str(),
            value,
            unit: quantity.unit().as_str(),
            chip: chip.as_str(),
            assumed,
            grade: grade.as_str(),
            source,
        }
        .serialize(serializer)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.quantity.unit().format(self.value);
        let chip = self.chip.as_str().to_uppercase();
        let how = if self.assumed { format!("assumed from {chip}, there") } else { chip };
        write!(f, "{:<17} {value:>12}  {how} {}: {}", self.quantity.as_str(), self.grade.as_str(), self.source)
    }
}

/// A call of the engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    /// Whether its products are convolutions with weights compiled in, or products of two inputs.
    pub convolves: bool,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of its weights, compiled in or passed.
    pub weight_bytes: f64,
    /// Bytes of its other inputs and its outputs.
    pub bytes: f64,
}

/// The simulated clock of a chip's engine.
///
/// ```
/// use anemone::clock::{Call, Clock};
/// use anemone::mil::Chip;
///
/// let [m1, m5] = [Chip::M1, Chip::M5].map(Clock::new);
/// let flops = 2.0 * 256.0 * 1024.0 * 1024.0;
/// let call = Call { convolves: false, flops, weight_bytes: 2097152.0, bytes: 1048576.0 };
/// assert!(m1.call(&call).total_s() > m5.call(&call).total_s());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    chip: Chip,
}

impl Clock {
    /// The clock of a chip.
    pub fn new(chip: Chip) -> Clock {
        Clock { chip }
    }

    /// The chip.
    pub fn chip(self) -> Chip {
        self.chip
    }

    /// What it goes by for one quantity: the row of the chip, else of the nearest chip, of two the older.
    pub fn figure(self, quantity: Quantity) -> Figure {
        let far = |row: &&Row| ((row.chip as i32 - self.chip as i32).abs(), row.chip);
        let row = ROWS.iter().filter(|row| row.quantity == quantity).min_by_key(far);
        // A test sees to it that there is one.
        let row = row.unwrap_or(&ROWS[0]);
        Figure {
            quantity,
            value: row.value,
            chip: row.chip,
            assumed: row.chip != self.chip,
            grade: row.grade,
            source: row.source,
        }
    }

    /// All it goes by.
    pub fn figures(self) -> Vec<Figure> {
        Quantity::ALL.map(|quantity| self.figure(quantity)).to_vec()
    }

    fn value(self, quantity: Quantity) -> f64 {
        self.figure(quantity).value
    }

    /// What a call takes.
    pub fn call(self, call: &Call) -> StepTime {
        let rate = if call.convolves { Quantity::Convolution } else { Quantity::Product };
        let compute_s = call.flops / self.value(rate);
        let memory_s =
            call.weight_bytes / self.value(Quantity::Weights) + call.bytes / self.value(Quantity::Activations);
        StepTime {
            dispatch_s: self.value(Quantity::Dispatch),
            compute_s,
            memory_s: (memory_s - compute_s).max(0.0),
            transfer_s: call.bytes / self.value(Quantity::Transfer),
        }
    }

    /// What compiling a program takes, with so many bytes of weights compiled in, in seconds; loading it comes on
    /// top.
    pub fn compile_s(self, weight_bytes: f64) -> f64 {
        self.value(Quantity::Compile) + weight_bytes / self.value(Quantity::CompiledWeights)
    }

    /// What loading a compiled program takes, in seconds.
    pub fn load_s(self) -> f64 {
        self.value(Quantity::Load)
    }

    /// What passing so many bytes of weights takes, in seconds.
    pub fn pass_s(self, weight_bytes: f64) -> f64 {
        weight_bytes / self.value(Quantity::Transfer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chip_has_every_figure_with_a_source() {
        for chip in Chip::ALL {
            for quantity in Quantity::ALL {
                let figure = Clock::new(chip).figure(quantity);
                assert_eq!(figure.quantity, quantity, "{chip} has no {quantity:?}");
                assert!(figure.value.is_finite() && figure.value > 0.0 && figure.source.len() > 20, "{figure}");
                assert_eq!(figure.to_string().contains("assumed from"), figure.chip != chip, "{figure}");
            }
        }
        for (i, row) in ROWS.iter().enumerate() {
            let same = |other: &&Row| (other.quantity, other.chip) == (row.quantity, row.chip);
            assert_eq!(ROWS.iter().position(|r| same(&r)), Some(i), "two rows of {:?} {}", row.quantity, row.chip);
        }
    }

    #[test]
    fn a_chip_without_a_figure_takes_the_nearest_and_of_two_the_older() {
        let of = |chip, quantity| {
            let figure = Clock::new(chip).figure(quantity);
            (figure.chip, figure.assumed)
        };
        assert_eq!(of(Chip::M3, Quantity::Product), (Chip::M2, true));
        assert_eq!(of(Chip::M2, Quantity::Load), (Chip::M5, true));
        assert_eq!(of(Chip::M4, Quantity::Product), (Chip::M4, false));
    }

    #[test]
    fn a_call_takes_the_longer_of_arithmetic_and_memory() {
        let clock = Clock::new(Chip::M4);
        let call = |flops, bytes| Call { convolves: true, flops, weight_bytes: bytes, bytes };
        let nothing = clock.call(&call(0.0, 0.0));
        assert_eq!(nothing.total_s(), clock.figure(Quantity::Dispatch).value);
        let busy = clock.call(&call(1e12, 1e3));
        assert!(busy.memory_s == 0.0 && busy.compute_s > 0.1);
        let reading = clock.call(&call(1e6, 1e9));
        let bytes_s = 1e9 / clock.value(Quantity::Weights) + 1e9 / clock.value(Quantity::Activations);
        assert!((reading.memory_s + reading.compute_s - bytes_s).abs() < 1e-12);
    }
}
