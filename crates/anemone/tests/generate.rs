//! Generated tokens are those that the model's forward pass of the whole run says.

use anemone::generate::{Generator, Sampler, Sampling};
use anemone::mil::ir::{DType, TensorType};
use anemone::mil::{Interpreter, Limits, Tensor, Weights, validate};
use anemone::models::{Gpt, Llama};
use anemone::nn::{Decoder, Graph};
use anemone::params::Init;
use anemone::random::Random;
use anemone::weights_file::NamedTensor;
use std::ops::ControlFlow;

const VOCABULARY: usize = 13;

fn gpt() -> Gpt {
    Gpt { vocabulary: VOCABULARY, context: 64, n_layers: 2, n_heads: 4, width: 16, ..Gpt::default() }
}

fn llama() -> Llama {
    let sizes = Llama { n_layers: 2, n_heads: 4, n_kv_heads: 2, width: 16, ..Llama::default() };
    Llama { vocabulary: VOCABULARY, theta: 100.0, ..sizes }
}

fn weights(model: &dyn Decoder) -> Vec<NamedTensor> {
    let mut random = Random::new(7);
    let params = Graph::build_decoder(model, 1).unwrap().params;
    let tensor = |(spec, _): &(anemone::params::ParamSpec, String)| {
        // Matrices large enough that attention is not the same everywhere, biases that are not 0.
        let scale = if matches!(spec.init, Init::Normal { .. }) { 20.0 } else { 1.0 };
        let mut data = spec.initial(&mut random);
        data.iter_mut().for_each(|x| *x = *x * scale + 0.1 * random.normal() as f32);
        NamedTensor { name: spec.name.clone(), shape: spec.shape.clone(), data }
    };
    params.iter().map(tensor).collect()
}

/// The logits of what follows these tokens, all computed at once by the reference interpreter.
fn forward(model: &dyn Decoder, weights: &[NamedTensor], tokens: &[u32]) -> Vec<f64> {
    let ty = TensorType::new(DType::Int32, &[1, tokens.len()]);
    let built = Graph::build(model, ty.clone(), ty).unwrap();
    let program = validate(built.program, &Limits::none()).unwrap();
    let run: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
    let run = Tensor::int(DType::Int32, &[1, tokens.len()], run);
    let mut inputs = vec![run.clone(), run];
    inputs.extend(built.params.iter().map(|(spec, _)| {
        let found = weights.iter().find(|t| t.name == spec.name).unwrap();
        Tensor::float(DType::Fp32, &spec.shape, found.data.iter().map(|&x| f64::from(x)).collect())
    }));
    let outputs = Interpreter::new(&program, &Weights::new()).unwrap().run(&inputs).unwrap();
    outputs[1].floats().unwrap().iter().skip(tokens.len() - 1).step_by(tokens.len()).copied().collect()
}

fn largest(logits: &[f64]) -> u32 {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}

fn greedy(model: &dyn Decoder, n_positions: usize, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut generator = Generator::new(model, &weights(model), n_positions).unwrap();
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }).unwrap();
    let mut tokens = prompt.to_vec();
    let each = |token| {
        tokens.push(token);
        Ok(ControlFlow::Continue(()))
    };
    generator.generate(prompt, n, &mut sampler, each).unwrap();
    tokens
}

#[test]
fn the_likeliest_token_is_that_of_the_whole_run() {
    for model in [&gpt() as &dyn Decoder, &llama()] {
        let weights = weights(model);
        let found = greedy(model, 32, &[3, 1, 4], 20);
        assert_eq!(found.len(), 23);
        for i in 3..found.len() {
            assert_eq!(found[i], largest(&forward(model, &weights, &found[..i])), "token {i} of {found:?}");
        }
        assert!(found[3..].iter().any(|&t| t != found[3]), "{found:?}");
    }
}

#[test]
fn when_all_positions_are_taken_the_later_half_stays() {
    for model in [&gpt() as &dyn Decoder, &llama()] {
        let weights = weights(model);
        let mut generator = Generator::new(model, &weights, 5).unwrap();
        let mut seen: Vec<u32> = Vec::new();
        for (i, token) in [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8].into_iter().enumerate() {
            let logits = generator.feed(token).unwrap().to_vec();
            if seen.len() == 5 {
                seen.drain(..3);
            }
            seen.push(token);
            assert_eq!(generator.tokens(), seen);
            let expected = forward(model, &weights, &seen);
            let worst = logits.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-4, "token {i}: {worst}");
        }
    }
    // As few positions as can be: each token is seen alone.
    assert_eq!(greedy(&gpt(), 1, &[3, 1], 4).len(), 6);
}

#[test]
fn of_a_prompt_longer_than_the_positions_the_last_tokens_count() {
    let prompt: Vec<u32> = (0..20).map(|i| i * 7 % 13).collect();
    let (all, last) = (greedy(&llama(), 6, &prompt, 5), greedy(&llama(), 6, &prompt[14..], 5));
    assert_eq!(all[20..], last[6..]);
}

#[test]
fn generating_again_begins_anew_only_after_clearing() {
    let model = gpt();
    let mut generator = Generator::new(&model, &weights(&model), 8).unwrap();
    let first = generator.feed(3).unwrap().to_vec();
    let second = generator.feed(3).unwrap().to_vec();
    assert_ne!(first, second);
    generator.clear();
    assert_eq!(generator.feed(3).unwrap(), first);
}

#[test]
fn generating_goes_on_after_what_was_drawn_before() {
    let model = llama();
    let weights = weights(&model);
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }).unwrap();
    let mut generator = Generator::new(&model, &weights, 32).unwrap();
    let mut seen: Vec<u32> = Vec::new();
    // With a prompt of which nothing is asked, one broken off, and a token from outside between them.
    for (prompt, n) in [(&[3u32, 1][..], 3), (&[4], 0), (&[1, 5], 1), (&[9], 9)] {
        seen.extend(prompt);
        let each = |token| {
            seen.push(token);
            Ok(if n == 9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        generator.generate(prompt, n, &mut sampler, each).unwrap();
    }
    seen.push(2);
    let logits = generator.feed(2).unwrap().to_vec();
    assert_eq!(seen.len(), 12);
    assert_eq!(generator.tokens(), seen);
    let expected = forward(&model, &weights, &seen);
    let worst = logits.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn what_is_wrong_is_named() {
    let model = gpt();
    let weights = weights(&model);
    let e = Generator::new(&model, &weights, 0).err().unwrap();
    assert!(e.is_config() && e.to_string().contains("0 positions"), "{e}");
    let e = Generator::new(&model, &weights, 65).err().unwrap();
    assert!(e.is_config() && e.to_string().contains("64 positions, the input 65"), "{e}");
    let e = Generator::new(&model, &weights[1..], 8).err().unwrap();
    assert!(e.is_checkpoint() && e.to_string().contains("no `transformer.wte.weight`"), "{e}");
    let mut generator = Generator::new(&model, &weights, 8).unwrap();
    let e = generator.feed(13).unwrap_err();
    assert!(e.is_config() && e.to_string().contains("no token 13, the model has 13"), "{e}");
    let mut sampler = Sampler::new(Sampling::default()).unwrap();
    let e = generator.generate(&[], 1, &mut sampler, |_| Ok(ControlFlow::Continue(()))).unwrap_err();
    assert!(e.to_string().contains("the prompt is empty"), "{e}");
}
