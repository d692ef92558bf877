//! What weights do on data they are not trained on: the model's forward part on the host, in f32.

use crate::config::Config;
use crate::data::{Data, Part};
use crate::error::{Error, Result};
use crate::nn::{Built, Graph, Model};
use crate::params::{self, ParamSpec};
use crate::report::{Evaluation, Validation};
use crate::soft::floats::Floats;
use crate::soft::memory::Memory;
use crate::soft::plan::Plan;
use crate::weights_file::NamedTensor;
use anemone_mil::ir::DType;
use anemone_mil::{Limits, Weights, validate};

/// Tries weights of a model on its data, without a device.
pub struct Evaluator {
    forward: Forward,
    specs: Vec<ParamSpec>,
    data: Box<dyn Data>,
    n_batches: u64,
}

impl Evaluator {
    /// For the configured model on the configured data.
    ///
    /// # Errors
    ///
    /// If the configuration asks for something impossible, or the data cannot be read.
    pub fn new(config: &Config) -> Result<Evaluator> {
        let data = config.data()?;
        Evaluator::with_model(config, &*config.model.model(&*data)?, data)
    }

    /// For any model on any data; of the configuration, `model` and `data` are not looked at.
    ///
    /// # Errors
    ///
    /// As [`Evaluator::new`].
    pub fn with_model(config: &Config, model: &dyn Model, data: Box<dyn Data>) -> Result<Evaluator> {
        let built = Graph::build(model, data.input(), data.target())?;
        let specs = built.params.iter().map(|(spec, _)| spec.clone()).collect();
        Ok(Evaluator { forward: Forward::new(&built, &*data)?, specs, data, n_batches: config.eval.batches })
    }

    /// The part of the data that is looked at: that for validation, or where there is none that for training.
    pub fn part(&self) -> Part {
        if self.data.n_validation_batches() > 0 { Part::Validation } else { Part::Train }
    }

    /// What the weights do on the batches that `eval.batches` allows. Weights are found by their names; others
    /// than the model's may be among them.
    ///
    /// # Errors
    ///
    /// If the model has a parameter that is not there in its shape, or the data cannot be read.
    pub fn run(&mut self, weights: &[NamedTensor]) -> Result<Validation> {
        let params = self.specs.iter().map(|spec| params::find(spec, weights).map(Floats::from));
        let params = params.collect::<Result<Vec<_>>>()?;
        self.forward.validate(&params, &mut *self.data, self.n_batches)
    }
}

/// The forward part of a model as a plan for the host.
pub(super) struct Forward {
    plan: Plan,
    memory: Memory,
    x: Vec<f32>,
    target: Vec<f32>,
    /// For a target of classes: how many there are.
    n_classes: Option<usize>,
}

/// What came of one batch.
struct Score {
    /// The mean over what counts.
    loss: f64,
    n_targets: u64,
    n_right: u64,
}

impl Forward {
    pub(super) fn new(built: &Built, data: &dyn Data) -> Result<Forward> {
        let program = validate(built.program.clone(), &Limits::none())?;
        let plan = Plan::new(program.main(), &Weights::new())?;
        let memory = plan.memory();
        let [x, target] = [data.input(), data.target()].map(|ty| vec![0.0; ty.n_elements().unwrap_or_default()]);
        let n_classes = match data.target().dtype {
            DType::Int32 => {
                // The second output is the prediction: logits [N, classes, ..].
                let shape =
                    plan.outputs().get(1).and_then(|(_, ty)| ty.as_tensor()).and_then(|ty| ty.fixed_shape());
                let n = shape.as_ref().and_then(|shape| shape.get(1).copied());
                Some(n.filter(|&n| n > 0).ok_or_else(|| {
                    Error::config(format!("the prediction has shape {shape:?}, expected logits [N, classes, ..]"))
                })?)
            }
            _ => None,
        };
        Ok(Forward { plan, memory, x, target, n_classes })
    }

    // The graph declares input, target, then parameters, and returns loss and prediction.

    /// Does what is to be done with these parameters, and gives them back.
    fn with<T>(&mut self, params: &[Floats], f: impl FnOnce(&mut Forward) -> Result<T>) -> Result<T> {
        for (i, values) in params.iter().enumerate() {
            self.memory.set_input(&self.plan, 2 + i, values.clone());
        }
        let result = f(self);
        (0..params.len()).for_each(|i| self.memory.forget_input(&self.plan, 2 + i));
        result
    }

    /// Runs a batch.
    fn batch(&mut self, data: &mut dyn Data, part: Part, index: u64) -> Result<Score> {
        data.batch(part, index, &mut self.x, &mut self.target)?;
        for (i, values) in [&self.x, &self.target].into_iter().enumerate() {
            self.memory.write_input(&self.plan, i, values);
        }
        self.plan.run(&mut self.memory)?;
        let loss = f64::from(self.memory.output(&self.plan, 0)[0]);
        let (n_targets, n_right) = match self.n_classes {
            Some(n) => {
                count_right(self.memory.output(&self.plan, 1), n, &self.target, data.target().fixed_shape())
            }
            None => (self.target.len() as u64, 0),
        };
        Ok(Score { loss, n_targets, n_right })
    }

    /// The mean over the targets of at most `n_batches` batches (0 for all), spread over the validation part.
    /// Where there is none, over so many of the first batches that are trained on, which have no end: over one for
    /// 0.
    pub(super) fn validate(
        &mut self,
        params: &[Floats],
        data: &mut dyn Data,
        n_batches: u64,
    ) -> Result<Validation> {
        let n_there = data.n_validation_batches();
        let part = if n_there > 0 { Part::Validation } else { Part::Train };
        let n = match (n_there, n_batches) {
            (0, n) => n.max(1),
            (n_there, 0) => n_there,
            (n_there, n) => n_there.min(n),
        };
        let (mut loss, mut n_targets, mut n_right) = (0.0, 0, 0);
        self.with(params, |forward| {
            for i in 0..n {
                let index =
                    if n_there > 0 { (u128::from(i) * u128::from(n_there) / u128::from(n)) as u64 } else { i };
                let score = forward.batch(data, part, index)?;
                // A batch in which nothing counts has no loss.
                if score.n_targets > 0 {
                    loss += score.loss * score.n_targets as f64;
                }
                n_targets += score.n_targets;
                n_right += score.n_right;
            }
            Ok(())
        })?;
        let mean = |sum: f64| sum / n_targets as f64;
        let accuracy = self.n_classes.map(|_| mean(n_right as f64));
        Ok(Validation { loss: mean(loss), accuracy, n_targets, n_batches: n, best: false })
    }

    /// The first batch that is trained on.
    pub(super) fn first_batch(&mut self, params: &[Floats], data: &mut dyn Data) -> Result<Evaluation> {
        let score = self.with(params, |forward| forward.batch(data, Part::Train, 0))?;
        let (mut prediction, mut target) = (Vec::new(), Vec::new());
        if self.n_classes.is_none() {
            // The first channels of row 0.
            let rows = data.target().fixed_shape().unwrap_or_default().iter().skip(2).product::<usize>().max(1);
            let first = |v: &[f32]| v.iter().step_by(rows).take(8).copied().collect();
            (prediction, target) = (first(self.memory.output(&self.plan, 1)), first(&self.target));
        }
        let accuracy = self.n_classes.map(|_| score.n_right as f64 / score.n_targets as f64);
        Ok(Evaluation { loss: score.loss as f32, accuracy, prediction, target })
    }
}

/// How many targets count, and for how many of these the largest of the logits `[N, n_classes, ..]` is that of the
/// target `[N, S]`; the first of equal logits is taken.
fn count_right(logits: &[f32], n_classes: usize, target: &[f32], shape: Option<Vec<usize>>) -> (u64, u64) {
    let n_rows = shape.as_ref().and_then(|s| s.first().copied()).unwrap_or(1).max(1);
    let size = target.len() / n_rows;
    let (mut n_targets, mut n_right) = (0, 0);
    for (logits, target) in logits.chunks_exact((n_classes * size).max(1)).zip(target.chunks_exact(size.max(1))) {
        for (s, &class) in target.iter().enumerate() {
            if class < 0.0 {
                continue;
            }
            let at = |c: usize| logits[c * size + s];
            let largest = (1..n_classes).fold(0, |best, c| if at(c) > at(best) { c } else { best });
            n_targets += 1;
            n_right += u64::from(largest as f32 == class);
        }
    }
    (n_targets, n_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_of_each_position_is_compared_and_ignored_targets_do_not_count() {
        // Two rows, three classes, two positions.
        let logits = [
            [0.0, 5.0, 1.0, 4.0, 2.0, 6.0], // classes 2 and 2
            [3.0, 1.0, 3.0, 9.0, 2.0, 0.0], // classes 0, the first of equals, and 1
        ]
        .concat();
        let right = |target: [f32; 4]| count_right(&logits, 3, &target, Some(vec![2, 2]));
        assert_eq!(right([2.0, 2.0, 0.0, 1.0]), (4, 4));
        assert_eq!(right([2.0, 1.0, 1.0, 1.0]), (4, 2));
        assert_eq!(right([2.0, -1.0, -1.0, 0.0]), (2, 1));
        assert_eq!(right([-1.0; 4]), (0, 0));
    }
}
