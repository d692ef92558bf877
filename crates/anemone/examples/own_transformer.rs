//! A transformer of one's own, trained to say eight letters backwards.
#![allow(clippy::print_stdout)] // An example shows what it does.

use anemone::data::{Data, IGNORE, Part};
use anemone::mil::{builder::Value, ir::DType, ir::TensorType};
use anemone::nn::{self, Graph, Heads, Model, Outputs, Pass};
use anemone::{Config, Result, Trainer, device, params::Init, random::Random, train::Event};

struct Transformer;

impl Model for Transformer {
    fn forward(&self, g: &mut Graph, x: Value, target: Value) -> Result<Outputs> {
        let init = Init::Normal { std: 0.2 };
        let mut pass = Pass::causal(g, 16);
        let (letters, table) = nn::embedding(g, "letters", x, 10, 32, init)?; // x is int32 [8, 16], this [8, 32, 1, 16]
        let places = nn::positions(g, "places", &pass, 16, 32, init)?;
        let h = g.add(letters, places)?;
        let heads = Heads { n_heads: 2, n_kv_heads: 2 };
        let [q, k, v] = ["q", "k", "v"].map(|name| nn::linear(g, name, h, 32, false, init));
        let seen = nn::attention(g, "attention", q?, k?, v?, heads, &mut pass)?;
        let h = g.add(h, seen)?;
        let n = nn::rms_norm(g, "norm", h, 1e-5)?;
        let n = nn::swiglu(g, "mlp", n, 64, init, init)?;
        let h = g.add(h, n)?;
        let prediction = nn::tied_classifier(g, "classifier", h, table)?;
        Ok(Outputs { loss: nn::cross_entropy(g, prediction, target)?, prediction })
    }
}

struct Mirrored;

impl Data for Mirrored {
    fn input(&self) -> TensorType {
        TensorType::new(DType::Int32, &[8, 16])
    }
    fn target(&self) -> TensorType {
        self.input()
    }
    fn batch(&mut self, _: Part, index: u64, input: &mut [f32], target: &mut [f32]) -> Result<()> {
        let mut random = Random::new(index);
        for (line, next) in input.chunks_mut(16).zip(target.chunks_mut(16)) {
            line[..8].fill_with(|| (random.bits() % 10) as f32);
            (8..16).for_each(|i| line[i] = line[15 - i]);
            next.fill(IGNORE as f32); // The first eight follow from nothing.
            next[7..15].copy_from_slice(&line[8..]);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let config = Config::from_toml("[train]\nsteps = 400\nlr = 0.01\n[optimizer]\nkind = \"adamw\"")?;
    let device = device::open(&config.device.options()?)?;
    let mut trainer = Trainer::with_model(&config, &Transformer, Box::new(Mirrored), device)?;
    while let Event::Step(step) = trainer.step()? {
        println!("{} {:.4}", step.step, step.loss);
    }
    Ok(())
}
