//! Examples: an input and a target each, in arrays.

use super::order::Order;
use super::{Array, Data, IGNORE, Layout, MAX_CLASSES, Part, check_batch, check_size, n_held, update};
use crate::error::{Error, Result};
use anemone_mil::ir::{DType, TensorType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Inputs and targets, a row of each an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// Inputs `[n, ..]`.
    pub inputs: Array,
    /// Targets `[n, ..]`.
    pub targets: Array,
}

/// What is held back for validation.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// A fraction of the examples, rounded down.
    Fraction(f64, Split),
    /// Other examples.
    Separate(Pairs),
}

/// Which examples a fraction takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Here and there: the last ones of epoch 0's [permutation](super::order) of all examples by seed 0, whatever
    /// the seed of the run is, so that runs can be compared.
    #[default]
    Scattered,
    /// The last ones.
    Tail,
}

/// How examples become batches.
#[derive(Clone, Debug, PartialEq)]
pub struct ExamplesOptions {
    /// How examples lie in a batch: columns or images.
    pub layout: Layout,
    /// How many classes there are; none if targets are numbers.
    pub n_classes: Option<usize>,
    /// Channels, height and width of an image; where not said they are those of the inputs, `[n, C, H, W]` or
    /// `[n, H, W]`.
    pub image: Option<[usize; 3]>,
    /// What inputs are multiplied by.
    pub scale: f32,
    /// Whether inputs are shifted and scaled to a mean of 0 and a variance of 1 over the training part: each value
    /// of a column, each channel of an image. What never varies becomes 0.
    pub standardize: bool,
    /// Examples in a batch.
    pub batch: usize,
    /// The seed of the order.
    pub seed: u64,
}

/// Examples in memory.
///
/// A batch of the training part has the next examples of the endless sequence of epochs. The validation part comes
/// in order; its last batch is filled up with inputs of 0 and targets of [`IGNORE`], or left out where targets are
/// numbers.
pub struct Examples {
    input: TensorType,
    target: TensorType,
    n_classes: Option<usize>,
    inputs: Vec<f32>,
    targets: Vec<f32>,
    /// Numbers in an input and in a target.
    input_size: usize,
    target_size: usize,
    columns: bool,
    batch: usize,
    /// Rows of `inputs` and `targets`.
    train: Vec<u32>,
    validation: Vec<u32>,
    order: Order,
    /// The epoch whose permutation is kept.
    epoch: Option<u64>,
    permutation: Vec<u32>,
}

impl Examples {
    /// The examples, checked.
    ///
    /// # Errors
    ///
    /// If sizes do not fit, a part is empty, a number is not finite or a target is no class.
    pub fn new(pairs: Pairs, held: Held, options: &ExamplesOptions) -> Result<Examples> {
        let shape = example_shape(&pairs.inputs, options)?;
        check_pairs(&pairs, options)?;
        let Pairs { mut inputs, mut targets } = pairs;
        let (n, target_size) = (inputs.n_rows(), targets.row_size());
        let (train, validation) = match held {
            Held::Fraction(fraction, split) => split_rows(n, fraction, split),
            Held::Separate(other) => {
                check_pairs(&other, options)?;
                let all = u32::try_from(n + other.inputs.n_rows())
                    .map_err(|_| other.inputs.wrong(format!("too many examples, expected {} in all", u32::MAX)))?;
                append(&mut inputs, other.inputs)?;
                append(&mut targets, other.targets)?;
                ((0..n as u32).collect(), (n as u32..all).collect())
            }
        };
        let (input_size, batch) = (inputs.row_size(), options.batch);
        check_size(batch, input_size.max(target_size))?;
        if train.is_empty() {
            return Err(inputs.wrong("no examples are left to train on"));
        }
        if options.n_classes.is_none() && !validation.is_empty() && validation.len() < batch {
            let what = format!("{} validation examples, expected a whole batch of {batch}", validation.len());
            return Err(inputs.wrong(what));
        }
        let columns = options.layout == Layout::Columns;
        let input = match columns {
            true => TensorType::new(DType::Fp32, &[1, input_size, 1, batch]),
            false => TensorType::new(DType::Fp32, &[batch, shape[0], shape[1], shape[2]]),
        };
        let target = match options.n_classes {
            Some(_) if columns => TensorType::new(DType::Int32, &[1, batch]),
            Some(_) => TensorType::new(DType::Int32, &[batch, 1]),
            None => TensorType::new(DType::Fp32, &[1, target_size, 1, batch]),
        };
        let mut values = inputs.values;
        if options.standardize {
            let pixels = if columns { 1 } else { shape[1] * shape[2] };
            standardize(&mut values, input_size, pixels, &train);
        } else if options.scale != 1.0 {
            values.iter_mut().for_each(|x| *x *= options.scale);
        }
        Ok(Examples {
            input,
            target,
            n_classes: options.n_classes,
            inputs: values,
            targets: targets.values,
            input_size,
            target_size,
            columns,
            batch,
            permutation: vec![0; train.len()],
            train,
            validation,
            order: Order::new(options.seed),
            epoch: None,
        })
    }

    /// The example at a position of a part; none behind the end of the validation part.
    fn row(&mut self, part: Part, position: u128) -> Option<usize> {
        if part == Part::Validation {
            let at = usize::try_from(position).ok()?;
            return self.validation.get(at).map(|&row| row as usize);
        }
        let n = self.train.len() as u128;
        let epoch = (position / n) as u64;
        if self.epoch != Some(epoch) {
            self.order.permutation(epoch, &mut self.permutation);
            self.epoch = Some(epoch);
        }
        Some(self.train[self.permutation[(position % n) as usize] as usize] as usize)
    }
}

impl Data for Examples {
    fn input(&self) -> TensorType {
        self.input.clone()
    }

    fn target(&self) -> TensorType {
        self.target.clone()
    }

    fn n_classes(&self) -> Option<usize> {
        self.n_classes
    }

    fn batch(&mut self, part: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        let n = self.batch;
        check_batch(self, part, index, [(input, n * self.input_size), (target, n * self.target_size)])?;
        for r in 0..n {
            let row = self.row(part, u128::from(index) * n as u128 + r as u128);
            // In columns the numbers of an example stand a batch apart, in images one after the other.
            let (first, step) = if self.columns { (r, n) } else { (r * self.input_size, 1) };
            let places = input.iter_mut().skip(first).step_by(step).take(self.input_size);
            match row {
                Some(row) => places.zip(&self.inputs[row * self.input_size..]).for_each(|(to, from)| *to = *from),
                None => places.for_each(|to| *to = 0.0),
            }
            let places = target.iter_mut().skip(r).step_by(n).take(self.target_size);
            match row {
                Some(row) => {
                    places.zip(&self.targets[row * self.target_size..]).for_each(|(to, from)| *to = *from)
                }
                None => places.for_each(|to| *to = IGNORE as f32),
            }
        }
        Ok(())
    }

    fn checksum(&self) -> Result<Option<u32>> {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&(self.train.len() as u64).to_le_bytes());
        [&self.inputs, &self.targets].into_iter().for_each(|values| update(&mut sum, values));
        Ok(Some(sum.finalize()))
    }

    fn n_validation_batches(&self) -> u64 {
        let n = self.validation.len();
        (if self.n_classes.is_some() { n.div_ceil(self.batch) } else { n / self.batch }) as u64
    }
}

/// Channels, height and width of an example; of a column they do not matter.
fn example_shape(inputs: &Array, options: &ExamplesOptions) -> Result<[usize; 3]> {
    let shape = match (options.layout, options.image, &inputs.shape[..]) {
        (Layout::Tokens, ..) => {
            return Err(inputs.wrong("examples of numbers, but the model takes tokens"));
        }
        (Layout::Columns, None, _) => [inputs.row_size(), 1, 1],
        (_, Some(image), _) => image,
        (_, None, &[_, c, h, w]) => [c, h, w],
        (_, None, &[_, h, w]) => [1, h, w],
        (_, None, shape) => {
            let what = "expected images [n, C, H, W] or [n, H, W], or `data.image` to say [C, H, W]";
            return Err(inputs.wrong(format!("shape {shape:?}, {what}")));
        }
    };
    let size = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    if size != Some(inputs.row_size()) || size == Some(0) {
        let what = format!("{} numbers an example, which is no image of {shape:?}", inputs.row_size());
        return Err(inputs.wrong(what));
    }
    if options.layout == Layout::Images && options.n_classes.is_none() {
        return Err(inputs.wrong("a model of images needs classes: say how many there are in `data.classes`"));
    }
    Ok(shape)
}

/// Checks that there are as many targets as inputs, that inputs are finite and targets what they should be.
fn check_pairs(pairs: &Pairs, options: &ExamplesOptions) -> Result<()> {
    let Pairs { inputs, targets } = pairs;
    let n = inputs.n_rows();
    if n == 0 || n > u32::MAX as usize {
        return Err(inputs.wrong(format!("{n} examples, expected 1 to {}", u32::MAX)));
    }
    if targets.n_rows() != n {
        let what = format!("{} targets, expected {n} as there are inputs in `{}`", targets.n_rows(), inputs.name);
        return Err(targets.wrong(what));
    }
    let finite = |array: &Array| match array.values.iter().position(|x| !x.is_finite()) {
        Some(at) => {
            let (row, value) = (at / array.row_size(), at % array.row_size());
            let found = array.values[at];
            Err(array.wrong(format!("example {row}, value {value} is {found}, expected a finite number")))
        }
        None => Ok(()),
    };
    finite(inputs)?;
    let Some(n_classes) = options.n_classes else {
        if targets.row_size() == 0 {
            return Err(targets.wrong(format!("shape {:?} has no numbers in a row", targets.shape)));
        }
        return finite(targets);
    };
    if !(1..=MAX_CLASSES).contains(&n_classes) {
        return Err(Error::config(format!("`data.classes` is {n_classes}, expected 1 to {MAX_CLASSES}")));
    }
    if targets.row_size() != 1 {
        let what = format!("shape {:?}, expected a class for each example, [{n}]", targets.shape);
        return Err(targets.wrong(what));
    }
    let is_class = |&x: &f32| x.fract() == 0.0 && (0.0..n_classes as f32).contains(&x);
    match targets.values.iter().position(|x| !is_class(x)) {
        Some(at) => {
            let (found, last) = (targets.values[at], n_classes - 1);
            let what = format!("the target of example {at} is {found}, expected a class of 0 to {last}");
            Err(targets.wrong(format!("{what} (`data.classes` is {n_classes})")))
        }
        None => Ok(()),
    }
}

/// Adds other rows, of the same numbers.
fn append(ours: &mut Array, theirs: Array) -> Result<()> {
    let (found, expected) = (theirs.row_size(), ours.row_size());
    if found != expected {
        let what = format!("{found} numbers a row, expected {expected} as in `{}`", ours.name);
        return Err(theirs.wrong(what));
    }
    if let (Some(found), Some(expected)) = (&theirs.columns, &ours.columns)
        && found != expected
    {
        let [found, expected] = [found, expected].map(|names| names.join(", "));
        return Err(theirs.wrong(format!("the columns {found}, expected {expected} as in `{}`", ours.name)));
    }
    ours.values.extend(theirs.values);
    Ok(())
}

fn split_rows(n: usize, fraction: f64, split: Split) -> (Vec<u32>, Vec<u32>) {
    let mut rows: Vec<u32> = (0..n as u32).collect();
    if split == Split::Scattered {
        Order::new(0).permutation(0, &mut rows);
    }
    let validation = rows.split_off(n - n_held(n, fraction));
    (rows, validation)
}

/// Shifts and scales each run of `pixels` numbers in an example of `size` by its mean and deviation over `train`.
fn standardize(values: &mut [f32], size: usize, pixels: usize, train: &[u32]) {
    let mean_of = |f: &dyn Fn(usize, f64) -> f64| {
        let mut means = vec![0.0; size / pixels];
        for &row in train {
            let example = &values[row as usize * size..][..size];
            for (run, (mean, run_values)) in means.iter_mut().zip(example.chunks_exact(pixels)).enumerate() {
                *mean += run_values.iter().map(|&x| f(run, f64::from(x))).sum::<f64>();
            }
        }
        means.iter_mut().for_each(|mean| *mean /= (train.len() * pixels) as f64);
        means
    };
    let means = mean_of(&|_, x| x);
    let variances = mean_of(&|run, x| (x - means[run]).powi(2));
    for (i, run) in values.chunks_exact_mut(pixels).enumerate() {
        let (mean, variance) = (means[i % means.len()], variances[i % means.len()]);
        let factor = if variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 };
        run.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * factor) as f32);
    }
}

#[cfg(test)]
mod tests;
