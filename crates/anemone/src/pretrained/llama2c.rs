//! The files of llama2.c (<https://github.com/karpathy/llama2.c>): seven numbers, then the weights in f32.

use super::Pretrained;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::map::map;
use crate::models::Llama;
use crate::weights_file::NamedTensor;
use std::path::Path;

/// The bytes of the header: `dim`, `hidden_dim`, `n_layers`, `n_heads`, `n_kv_heads`, `vocab_size` and `seq_len`,
/// int32 each.
const N_HEADER_BYTES: usize = 28;
/// What later formats of llama2.c begin with, `ak42`.
const MAGIC: i32 = 0x616b_3432;

impl Pretrained {
    /// Reads a file that llama2.c's `export.py --version 0` made. It has no tokenizer.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, its header makes no sense, or it has more or fewer bytes than that says.
    pub fn from_llama2c(path: &Path) -> Result<Pretrained> {
        let bytes = map(path)?;
        let (model, weights) = read(&bytes).map_err(|why| {
            Error::checkpoint(format!("load a model of llama2.c from `{}`: {why}", path.display()))
        })?;
        Ok(Pretrained { model: ModelConfig::Llama(model), weights, tokenizer: None })
    }
}

fn read(bytes: &[u8]) -> Result<(Llama, Vec<NamedTensor>), String> {
    let Some((header, data)) = bytes.split_at_checked(N_HEADER_BYTES) else {
        let n = bytes.len();
        return Err(format!("the file has {n} bytes, expected a header of {N_HEADER_BYTES} and the weights"));
    };
    let header: Vec<i32> = header.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
    if header[0] == MAGIC {
        return Err("the file is of a later version of the format: write it with `export.py --version 0`".into());
    }
    let size = |i: usize, name: &str| match usize::try_from(header[i]) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("`{name}` is {}, expected 1 or more", header[i])),
    };
    let (dim, hidden, n_layers) = (size(0, "dim")?, size(1, "hidden_dim")?, size(2, "n_layers")?);
    let (n_heads, n_kv_heads, context) = (size(3, "n_heads")?, size(4, "n_kv_heads")?, size(6, "seq_len")?);
    // A negative number says that the classifier has weights of its own.
    let (vocabulary, tied) = (header[5].unsigned_abs() as usize, header[5] > 0);
    if vocabulary == 0 {
        return Err("`vocab_size` is 0, expected any other number".into());
    }
    if !dim.is_multiple_of(2 * n_heads) || !n_heads.is_multiple_of(n_kv_heads) {
        return Err(format!(
            "`dim` is {dim}, `n_heads` {n_heads} and `n_kv_heads` {n_kv_heads}: expected heads of an even size that \
             divide the channels, and heads of keys and values that divide the heads"
        ));
    }
    let head = dim / n_heads;
    let kv = n_kv_heads * head;

    // In the order of the file: the name after that of the layer, if it is of one, and the sizes.
    let no_name: &str = "";
    let mut parts: Vec<(&str, [usize; 3])> = vec![
        ("model.embed_tokens.weight", [1, vocabulary, dim]),
        ("input_layernorm.weight", [n_layers, 1, dim]),
        ("self_attn.q_proj.weight", [n_layers, dim, dim]),
        ("self_attn.k_proj.weight", [n_layers, kv, dim]),
        ("self_attn.v_proj.weight", [n_layers, kv, dim]),
        ("self_attn.o_proj.weight", [n_layers, dim, dim]),
        ("post_attention_layernorm.weight", [n_layers, 1, dim]),
        ("mlp.gate_proj.weight", [n_layers, hidden, dim]),
        ("mlp.down_proj.weight", [n_layers, dim, hidden]),
        ("mlp.up_proj.weight", [n_layers, hidden, dim]),
        ("model.norm.weight", [1, 1, dim]),
        // Cosines and sines, which nobody reads any more.
        (no_name, [2, context, head / 2]),
    ];
    if !tied {
        parts.push(("lm_head.weight", [1, vocabulary, dim]));
    }
    // Each size is below 2^31, so that products of three fit u128 by far.
    let n_elements: u128 = parts.iter().map(|(_, s)| s.iter().map(|&n| n as u128).product::<u128>()).sum();
    if n_elements * 4 != data.len() as u128 {
        return Err(format!(
            "the file has {} bytes, its header says {}: it is cut short, or of another format",
            bytes.len(),
            n_elements * 4 + N_HEADER_BYTES as u128
        ));
    }

    let mut rest = data;
    let mut weights = Vec::new();
    for (name, [n, rows, columns]) in parts {
        for layer in 0..n {
            let (part, later) = rest.split_at(4 * rows * columns);
            rest = later;
            if name == no_name {
                continue;
            }
            let mut data: Vec<f32> = part.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            if name.contains("q_proj") || name.contains("k_proj") {
                data = halves(&data, head, columns);
            }
            let is_table = name.contains("embed_tokens");
            let shape = match rows {
                _ if is_table => vec![rows, columns],
                1 if name.contains("norm") => vec![1, columns, 1, 1],
                _ => vec![rows, columns, 1, 1],
            };
            let whole = name.starts_with("model.") || name.starts_with("lm_head");
            let name = if whole { name.to_string() } else { format!("model.layers.{layer}.{name}") };
            weights.push(NamedTensor { name, shape, data });
        }
    }
    let model = Llama {
        vocabulary,
        context,
        n_layers,
        n_heads,
        n_kv_heads,
        width: dim,
        hidden,
        tied,
        // `run.c` has these as numbers.
        theta: 10000.0,
        epsilon: 1e-5,
        lora: None,
    };
    Ok((model, weights))
}

/// Rows of queries or keys in another order: llama2.c turns the channels `2i` and `2i + 1` of a head by the angle
/// by which [`rope`](crate::nn::rope) turns `i` and `i + head / 2`.
fn halves(data: &[f32], head: usize, n_columns: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(data.len());
    for head in data.chunks_exact(head * n_columns) {
        let rows = || head.chunks_exact(n_columns);
        turned.extend(rows().step_by(2).chain(rows().skip(1).step_by(2)).flatten());
    }
    turned
}
