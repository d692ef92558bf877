//! Token by token, with keys and values kept by the caller, a decoder says what it says of the whole run.

use anemone::mil::ir::{DType, TensorType};
use anemone::mil::{Interpreter, Limits, Tensor, Weights, validate};
use anemone::models::{Gpt, Llama};
use anemone::nn::{Decoder, Graph};
use anemone::params::{Init, ParamSpec};
use anemone::random::Random;

const TOKENS: [i64; 6] = [3, 1, 4, 1, 5, 9];
const VOCABULARY: usize = 11;
const N_POSITIONS: usize = 8;

fn params(params: &[(ParamSpec, String)]) -> Vec<Tensor> {
    let mut random = Random::new(7);
    let mut initial = |(spec, _): &(ParamSpec, String)| {
        // Matrices large enough that attention is not the same everywhere, biases that are not 0.
        let scale = if matches!(spec.init, Init::Normal { .. }) { 20.0 } else { 1.0 };
        let values = spec.initial(&mut random).into_iter();
        let values = values.map(|x| f64::from(x) * scale + 0.1 * random.normal()).collect();
        Tensor::float(DType::Fp32, &spec.shape, values)
    };
    params.iter().map(&mut initial).collect()
}

/// The logits of all tokens at once, `[vocabulary, S]`.
fn whole(model: &dyn Decoder) -> Vec<f64> {
    let ty = TensorType::new(DType::Int32, &[1, TOKENS.len()]);
    let built = Graph::build(model, ty.clone(), ty).unwrap();
    let program = validate(built.program, &Limits::none()).unwrap();
    let tokens = Tensor::int(DType::Int32, &[1, TOKENS.len()], TOKENS.to_vec());
    let mut inputs = vec![tokens.clone(), tokens];
    inputs.extend(params(&built.params));
    let outputs = Interpreter::new(&program, &Weights::new()).unwrap().run(&inputs).unwrap();
    outputs[1].floats().unwrap().to_vec()
}

/// The same, one token after the other.
fn stepwise(model: &dyn Decoder) -> Vec<f64> {
    let built = Graph::build_decoder(model, N_POSITIONS).unwrap();
    let program = validate(built.program, &Limits::none()).unwrap();
    let mut interpreter = Interpreter::new(&program, &Weights::new()).unwrap();
    let params = params(&built.params);
    let (heads, size) = (built.cache.n_kv_heads, built.cache.head_size);
    // What lies behind the position must not matter.
    let mut caches = vec![vec![12.0; heads * size * N_POSITIONS]; 2 * built.cache.n_layers];
    let mut logits = vec![0.0; VOCABULARY * TOKENS.len()];
    for (position, &token) in TOKENS.iter().enumerate() {
        let one = |x: i64| Tensor::int(DType::Int32, &[1, 1], vec![x]);
        let mut inputs = vec![one(token), one(position as i64)];
        let shape = [1, heads, size, N_POSITIONS];
        inputs.extend(caches.iter().map(|c| Tensor::float(DType::Fp32, &shape, c.clone())));
        inputs.extend(params.iter().cloned());
        let outputs = interpreter.run(&inputs).unwrap();
        assert_eq!(outputs[0].shape(), [1, VOCABULARY, 1, 1]);
        assert_eq!(outputs.len(), 1 + caches.len());
        for (class, x) in outputs[0].floats().unwrap().iter().enumerate() {
            logits[class * TOKENS.len() + position] = *x;
        }
        for (cache, column) in caches.iter_mut().zip(&outputs[1..]) {
            assert_eq!(column.shape(), [1, heads, size, 1]);
            for (row, x) in column.floats().unwrap().iter().enumerate() {
                cache[row * N_POSITIONS + position] = *x;
            }
        }
    }
    logits
}

#[test]
fn token_by_token_gives_the_logits_of_the_whole_run() {
    let gpt =
        Gpt { vocabulary: VOCABULARY, context: N_POSITIONS, n_layers: 2, n_heads: 4, width: 16, ..Gpt::default() };
    let llama = Llama {
        vocabulary: VOCABULARY,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        width: 16,
        theta: 100.0,
        ..Llama::default()
    };
    let models: [(&str, &dyn Decoder); 4] = [
        ("gpt", &gpt),
        ("gpt, untied, without biases", &Gpt { tied: false, bias: false, ..gpt.clone() }),
        ("llama", &llama),
        ("llama, tied, a head of keys for each of queries", &Llama { tied: true, n_kv_heads: 0, ..llama.clone() }),
    ];
    for (name, model) in models {
        let (whole, stepwise) = (whole(model), stepwise(model));
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let difference: Vec<f64> = whole.iter().zip(&stepwise).map(|(w, s)| w - s).collect();
        assert!(norm(&difference) < 1e-5 * norm(&whole), "{name}: {} of {}", norm(&difference), norm(&whole));
    }
}

#[test]
fn there_are_no_more_positions_than_the_table_has() {
    let gpt = Gpt { vocabulary: VOCABULARY, context: 4, n_layers: 1, n_heads: 1, width: 8, ..Gpt::default() };
    let e = Graph::build_decoder(&gpt, 5).unwrap_err();
    assert!(e.is_config() && e.to_string().contains("4 positions, the input 5"), "{e}");
}
