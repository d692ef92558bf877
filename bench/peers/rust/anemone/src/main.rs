//! The job on anemone: its trainer on the software engine, weights passed in, fp16 inputs and outputs.

use anemone::config::{Io, LossScale, ModelConfig, Strategy};
use anemone::data::{Data, Part};
use anemone::mil::ir::{DType, TensorType};
use anemone::train::Event;
use anemone::{Config, Trainer, device};
use job::{ACCUMULATE, Batch, Job, Result};

fn main() -> Result<()> {
    job::serve(env!("CARGO_PKG_VERSION"), start)
}

fn start(job: &Job, lr: f32) -> Result<Batch> {
    anemone::set_n_threads(job.n_threads);
    let mut config = Config::preset("tiny").ok_or("there is no preset `tiny`")?;
    let ModelConfig::Mlp(mlp) = &mut config.model else { return Err("the model of `tiny` is no `mlp`".into()) };
    (mlp.inputs, mlp.hidden, mlp.outputs) = (job.d, vec![job.h], job.d);
    config.train.steps = u64::MAX;
    config.train.stop_below = 0.0;
    config.train.lr = lr;
    config.train.accumulate = ACCUMULATE as u64;
    // Gradients are divided by the number of elements, and fp16 would lose those of the larger jobs: they are
    // brought to where those of `tiny` are, which needs no scale.
    config.train.loss_scale = LossScale::Fixed((job.s * job.d) as f32 / (16.0 * 64.0));
    config.train.input_gradient = match job.mode.as_str() {
        "trainer" => true,
        "trainer-no-dx" => false,
        mode => return Err(format!("mode `{mode}`, expected `trainer` or `trainer-no-dx`").into()),
    };
    config.weights.strategy = Strategy::Operand;
    config.weights.io = Io::Fp16;
    let data = Held::new(job);
    let model = config.model.model(&data)?;
    let device = device::open(&config.device.options()?)?;
    let mut trainer = Trainer::with_model(&config, &*model, Box::new(data), device)?;
    Ok(Box::new(move || {
        let mut loss = f32::NAN;
        for _ in 0..ACCUMULATE {
            match trainer.step()? {
                Event::Step(step) => loss = step.loss,
                event => return Err(format!("{event:?}, expected a step").into()),
            }
        }
        Ok(loss)
    }))
}

/// One batch that is held in memory, as the peers have it.
struct Held {
    ty: TensorType,
    /// `[1, D, 1, S]`.
    x: Vec<f32>,
}

impl Held {
    fn new(job: &Job) -> Held {
        let (d, s, x) = (job.d, job.s, job.x());
        Held {
            ty: TensorType::new(DType::Fp32, &[1, d, 1, s]),
            x: (0..d * s).map(|i| x[i % s * d + i / s]).collect(),
        }
    }
}

impl Data for Held {
    fn input(&self) -> TensorType {
        self.ty.clone()
    }

    fn target(&self) -> TensorType {
        self.ty.clone()
    }

    fn batch(&mut self, _: Part, _: u64, input: &mut [f32], target: &mut [f32]) -> anemone::Result<()> {
        input.copy_from_slice(&self.x);
        target.copy_from_slice(&self.x);
        Ok(())
    }
}
