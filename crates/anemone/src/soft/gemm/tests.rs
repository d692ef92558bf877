//! Products against the sums they are defined as, with every instruction set of this machine.

use super::*;
use crate::soft::fp16::to_fp16_grid;

/// Numbers on the fp16 grid, some of them subnormal, so that products need all the bits an exact one has.
fn operand(n: usize, f: f32) -> Vec<f32> {
    (0..n).map(|i| to_fp16_grid((i as f32 * f).sin() * if i % 7 == 0 { 3e-6 } else { 1.0 })).collect()
}

/// As `operand`, but with all bits of f32.
fn wide(n: usize, f: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * f).sin()).collect()
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (4, 3, 16),
    (5, 7, 17),
    (8, 64, 32),
    (3, 2, 40),
    (33, 5, 70),
    (25, 9, 33),
    // More rows, terms and columns than are laid out at a time.
    (MOST_ROWS + 19, MOST_TERMS + 5, MOST_COLUMNS + 7),
    (16, 2 * MOST_TERMS, 2 * MOST_COLUMNS),
    // A sum of such is read in place.
    (MOST_ROWS + 19, MOST_TERMS / 2, 2 * MOST_COLUMNS + 5),
    // Tall ones.
    (3 * MOST_ROWS / 2 + 5, TALL_TERMS + 7, 2 * TALL_COLUMNS + 37),
    (3 * MOST_ROWS / 2, MOST_TERMS + 1, 100),
    (0, 4, 4),
    (4, 0, 4),
];

fn check<S: Simd>(simd: S) {
    for (m, k, n) in SHAPES {
        for make in [operand, wide] {
            for turned in [(false, false), (true, false), (false, true), (true, true)] {
                check_one(simd, Gemm { m, k, n, transposed: turned }, make);
                check_sum(simd, Gemm { m, k, n, transposed: turned }, make);
            }
        }
    }
}

fn run<S: Simd>(simd: S, run: Run<'_>) {
    match (run.is_tall(), run.is_in_place()) {
        (false, false) => simd.vectorize(Blocks::<false, false>(run)),
        (false, true) => simd.vectorize(Blocks::<false, true>(run)),
        (true, false) => simd.vectorize(Blocks::<true, false>(run)),
        (true, true) => simd.vectorize(Blocks::<true, true>(run)),
    }
}

/// All ways to begin, from plain and packed rows, rounded and not.
fn check_one<S: Simd>(simd: S, gemm: Gemm, make: fn(usize, f32) -> Vec<f32>) {
    let Gemm { m, k, n, transposed: turned } = gemm;
    let (a, b) = (make(m * k, 0.37), make(k * n, 0.73));
    let a2 = if turned.0 { transposed(&a, m, k) } else { a.clone() };
    let b2 = if turned.1 { transposed(&b, k, n) } else { b.clone() };
    let mut packed = vec![f32::INFINITY; gemm.n_packed()];
    simd.vectorize(Pack { gemm, a: &a2, first: 0, packed: &mut packed, splits: false });
    // In parts as well, as threads do it.
    let mut parts = vec![f32::INFINITY; packed.len()];
    for (i, packed) in parts.chunks_mut(3 * gemm.n_in_group()).enumerate() {
        simd.vectorize(Pack { gemm, a: &a2, first: 3 * i, packed, splits: false });
    }
    assert_eq!(parts, packed, "{gemm:?}");
    let held = wide(m * n, 0.11);
    let (rows, columns) = (wide(m, 0.21), wide(n, 0.31));
    let first = m / 3;
    for (i_start, fp16, left) in (0..4).flat_map(|s| {
        [(s, false, Left::Plain(&a2)), (s, true, Left::Packed(&packed)), (s, false, Left::Packed(&packed))]
    }) {
        let start = match i_start {
            0 => Start::Zero,
            1 => Start::Sums,
            2 => Start::Rows(&rows[first..]),
            _ => Start::Columns(&columns),
        };
        let b = |i: usize| if fp16 { to_fp16_grid(b[i]) } else { b[i] };
        let mut c = held.clone();
        let mut scratch = vec![f32::NAN; gemm.n_scratch(1)];
        let (c_rows, c_) = (m - first, &mut c[first * n..]);
        if !c_.is_empty() {
            let scratch = &mut scratch[..];
            let operands = Operands { gemm, a: left, b: &b2, parts: &[(0, 0)], rounds_b: fp16 };
            run(simd, Run { operands, start, first, rows: c_rows, c: c_, fp16, scratch });
        }
        for i in 0..m {
            for (j, &column) in columns.iter().enumerate() {
                let at = i * n + j;
                let from = [0.0, held[at], rows[i], column][i_start];
                let sum = (0..k).map(|l| (a[i * k + l], b(l * n + j))).fold(from, |s, (a, b)| a.mul_add(b, s));
                let expected = match (i < first, fp16) {
                    (true, _) => held[at],
                    (false, true) => to_fp16_grid(sum),
                    (false, false) => sum,
                };
                assert_eq!(c[at].to_bits(), expected.to_bits(), "{gemm:?} at {i} {j}, {start:?}");
            }
        }
    }
}

/// A sum of products beside one after the other.
fn check_sum<S: Simd>(simd: S, gemm: Gemm, make: fn(usize, f32) -> Vec<f32>) {
    let Gemm { m, k, n, .. } = gemm;
    let (a, b) = (make(3 * m * k, 0.41), make(3 * k * n, 0.83));
    let parts = [(m * k, 0), (2 * m * k, k * n), (0, 2 * k * n)];
    let first = m / 3;
    let sum = |parts: &[(usize, usize)], start: Start<'_>, c: &mut [f32]| {
        let c = &mut c[first * n..];
        let mut scratch = vec![f32::NAN; gemm.n_scratch(parts.len())];
        if !c.is_empty() {
            let (rows, scratch) = (m - first, &mut scratch[..]);
            let operands = Operands { gemm, a: Left::Plain(&a), b: &b, parts, rounds_b: false };
            run(simd, Run { operands, start, first, rows, c, fp16: false, scratch });
        }
    };
    let held = wide(m * n, 0.11);
    let (mut c, mut expected) = (held.clone(), held);
    sum(&parts, Start::Zero, &mut c);
    sum(&parts[..1], Start::Zero, &mut expected);
    parts[1..].iter().for_each(|part| sum(&[*part], Start::Sums, &mut expected));
    assert!(c.iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits()), "{gemm:?}");
}

#[test]
fn products_are_summed_in_order_by_every_instruction_set_of_this_machine() {
    check(pulp::Scalar::new());
    #[cfg(target_arch = "x86_64")]
    {
        pulp::x86::V3::try_new().into_iter().for_each(check);
        pulp::x86::V4::try_new().into_iter().for_each(check);
    }
    #[cfg(target_arch = "aarch64")]
    pulp::aarch64::Neon::try_new().into_iter().for_each(check);
}

/// Convolutions ask for the room of their widest products, and take narrower ones too.
#[test]
fn narrower_products_need_no_more_room() {
    for (m, k) in [(27, 576), (32, 2400), (1, 1), (64, 27)] {
        let room = |n| Gemm { m, k, n, transposed: (false, false) }.n_scratch_of_tiles(1);
        assert!((1..1000).all(|n| room(n) <= room(n + 1)), "{m} {k}");
    }
}
