//! A model of one's own, trained on one batch of a sine.
#![allow(clippy::print_stdout)] // An example shows what it does.

use anemone::mil::builder::Value;
use anemone::nn::{Activation, Graph, Loss, Model, Outputs, linear};
use anemone::params::Init;
use anemone::train::Event;
use anemone::{Config, Result, Trainer, data::Sine, device};

struct TwoLayer {
    hidden: usize,
}

impl Model for TwoLayer {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let init = Init::Uniform { bound: None };
        let h = linear(g, "fc1", x, self.hidden, true, init)?; // x is [1, 64, 1, 16], channel first
        let h = Activation::Tanh.apply(g, h)?;
        let prediction = linear(g, "fc2", h, 64, true, init)?;
        Ok(Outputs { loss: Loss::Mse.of(g, prediction, target)?, prediction })
    }
}

fn main() -> Result<()> {
    let config = Config::from_toml("[train]\nsteps = 200\nlr = 0.5")?;
    let device = device::open(&config.device.options()?)?;
    let data = Box::new(Sine::new(64, 64, 16)?);
    let mut trainer = Trainer::with_model(&config, &TwoLayer { hidden: 128 }, data, device)?;
    while let Event::Step(step) = trainer.step()? {
        println!("{} {:.6}", step.step, step.loss);
    }
    Ok(())
}
