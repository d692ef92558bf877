//! The engine's arithmetic against a slow one of whole numbers, and against the examples of those who measured it.

mod examples;
mod integers;
mod programs;

use super::accumulate::{Rows, Shape, Start};
use crate::random::Random;
use half::f16;
use pulp::Simd;

/// Any fp16 numbers: every exponent as often as any other, so that some are subnormal, infinite or NaN.
fn any(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| f16::from_bits(random.bits() as u16).to_f32()).collect()
}

/// Numbers of a size around 2^-5, about as often zero, subnormal or at the border of being dropped as not.
fn small(random: &mut Random, n: usize) -> Vec<f32> {
    let number = |random: &mut Random| {
        let bits = random.bits() as u16;
        let exponent = [0, 0, 4, 6, 7, 8, 9, 10, 14, 16][random.bits() as usize % 10];
        f16::from_bits(bits & 0x83ff | exponent << 10).to_f32()
    };
    (0..n).map(|_| number(random)).collect()
}

#[test]
fn products_are_those_of_whole_numbers() {
    let mut random = Random::new(1);
    // A million products each: one of any numbers, one where all are small enough for the quick sums.
    for make in [any, small] {
        let shape = Shape { m: 1000, k: 1, n: 1000, transposed: (false, false) };
        let (a, b) = (make(&mut random, 1000), make(&mut random, 1000));
        let (mut out, mut scratch) = (vec![0.0; 1_000_000], vec![0.0; shape.n_scratch()]);
        shape.rows((&a, &b, Start::Zero), 0, &mut out, &mut scratch);
        let mut n_kinds = [0; 3];
        for (i, found) in out.iter().enumerate() {
            let (a, b) = (a[i / 1000], b[i % 1000]);
            let expected = integers::sum(0.0, [(a, b)]);
            assert_eq!(found.to_bits(), expected.to_bits(), "{a:e} by {b:e}: {found:e}, expected {expected:e}");
            let kind = if *found == 0.0 { 0 } else { 1 + usize::from(found.is_infinite()) };
            n_kinds[kind] += usize::from(a != 0.0 && b != 0.0);
        }
        assert!(n_kinds[0] > 10_000 && n_kinds[1] > 100_000, "{n_kinds:?}");
    }
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn check_sums<S: Simd>(simd: S) {
    let mut random = Random::new(2);
    // Sums of many numbers near 100 overflow on their way, some of them only for a while.
    let large = |random: &mut Random, n: usize| -> Vec<f32> {
        (0..n).map(|_| f16::from_f64(300.0 * random.uniform() - 150.0).to_f32()).collect()
    };
    for (m, k, n) in [(1, 1, 1), (5, 7, 17), (9, 64, 32), (3, 2, 40), (33, 5, 70), (8, 200, 16), (4, 0, 4)] {
        for make in [any, small, large] {
            let (a, b) = (make(&mut random, m * k), make(&mut random, k * n));
            let (rows, columns) = (make(&mut random, m), make(&mut random, n));
            for start in [Start::Zero, Start::Rows(&rows), Start::Columns(&columns)] {
                for turned in [(false, false), (true, false), (false, true), (true, true)] {
                    let shape = Shape { m, k, n, transposed: turned };
                    let a2 = if turned.0 { transposed(&a, m, k) } else { a.clone() };
                    let b2 = if turned.1 { transposed(&b, k, n) } else { b.clone() };
                    let first = m / 3;
                    let mut out = vec![0.0; (m - first) * n];
                    let mut scratch = vec![f32::NAN; shape.n_scratch()];
                    simd.vectorize(Rows {
                        shape,
                        a: &a2,
                        b: &b2,
                        start,
                        first,
                        rows: m - first,
                        out: &mut out,
                        scratch: &mut scratch,
                    });
                    for (at, found) in out.iter().enumerate() {
                        let (i, j) = (first + at / n, at % n);
                        let from = match start {
                            Start::Zero => 0.0,
                            Start::Rows(x) => x[i],
                            Start::Columns(x) => x[j],
                        };
                        let expected = integers::sum(from, (0..k).map(|l| (a[i * k + l], b[l * n + j])));
                        assert_eq!(found.to_bits(), expected.to_bits(), "{shape:?} {start:?} at {i} {j}");
                    }
                }
            }
        }
    }
}

#[test]
fn sums_are_those_of_whole_numbers_by_every_instruction_set_of_this_machine() {
    check_sums(pulp::Scalar::new());
    #[cfg(target_arch = "x86_64")]
    {
        pulp::x86::V3::try_new().into_iter().for_each(check_sums);
        pulp::x86::V4::try_new().into_iter().for_each(check_sums);
    }
    #[cfg(target_arch = "aarch64")]
    pulp::aarch64::Neon::try_new().into_iter().for_each(check_sums);
}
