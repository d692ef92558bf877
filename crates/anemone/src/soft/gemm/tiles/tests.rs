//! Tiles against sums in f64, and the unit of this machine, if it has one, against what its manual says.

use super::*;
use crate::soft::floats::MOST_SKIPPED;
use crate::soft::fp16::to_fp16_grid;
use crate::soft::gemm::{Blocks, Pack, Rounding, amx};

/// The unit as Intel's manual describes it: volume 2, TDPBF16PS.
struct Manual;

fn number(pair: u32, half: usize) -> f32 {
    let x = f32::from_bits(if half == 0 { pair << 16 } else { pair & 0xffff_0000 });
    if x.is_subnormal() { 0.0 } else { x }
}

fn add_product(a: &Tile, b: &Tile, c: &mut [f32], step: usize) {
    for r in 0..TILE {
        for column in 0..TILE {
            let [first, second] = [0, 1].map(|half| {
                let products = (0..TILE).map(|p| (number(a[r][p], half), number(b[p][column], half)));
                // These are exact, so that to add them is one rounding.
                products.fold(0.0f32, |sum, (a, b)| sum + a * b)
            });
            c[r * step + column] += first + second;
        }
    }
}

impl Manual {
    fn multiply<const M: usize, const N: usize>(
        a: Panels<'_, M>,
        b: Panels<'_, N>,
        n: usize,
        (c, step, adds): (&mut [f32], usize, bool),
    ) {
        for (i, a_tiles) in a.tiles.iter().enumerate() {
            for (j, b_tiles) in b.tiles.iter().enumerate() {
                let c = &mut c[i * TILE * step + j * TILE..];
                if !adds {
                    c.chunks_mut(step).take(TILE).for_each(|row| row[..TILE].fill(0.0));
                }
                for block in 0..n {
                    for (a, i_tile) in (0..a.n_in_block).map(|d| (&a_tiles[block * a.n_in_block + d], d)) {
                        for i in 0..b.n_in_block {
                            let d = if i_tile == 1 { b.n_in_block - 1 - i } else { i };
                            add_product(a, &b_tiles[block * b.n_in_block + d], c, step);
                        }
                    }
                }
            }
        }
    }
}

impl Unit for Manual {
    fn square(&mut self, a: Panels<'_, 2>, b: Panels<'_, 2>, n: usize, c: (&mut [f32], usize, bool)) {
        Manual::multiply(a, b, n, c);
    }

    fn column(&mut self, a: Panels<'_, ROWS>, b: Panels<'_, 1>, n: usize, (c, adds): (&mut [f32], bool)) {
        Manual::multiply(a, b, n, (c, TILE, adds));
    }
}

fn wide(n: usize, f: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * f).sin()).collect()
}

fn half(n: usize, f: f32) -> Vec<f32> {
    wide(n, f).iter().enumerate().map(|(i, x)| to_fp16_grid(x * if i % 7 == 0 { 3e-6 } else { 1.0 })).collect()
}

fn at(x: &[f32], (rows, columns): (usize, usize), transposed: bool, r: usize, c: usize) -> f32 {
    x[if transposed { c * rows + r } else { r * columns + c }]
}

/// What a product is computed of, and by what.
#[derive(Clone, Copy)]
struct Case<'a> {
    gemm: Gemm,
    a: Left<'a>,
    b: &'a [f32],
    parts: &'a [(usize, usize)],
    start: Start<'a>,
    rounding: Rounding,
    digits: (usize, usize),
}

impl Case<'_> {
    /// The rows from `first` on.
    fn run<S: Simd>(self, simd: S, first: usize, c: &mut [f32], unit: impl Unit) {
        let Case { gemm, a, b, parts, start, rounding, digits } = self;
        let mut scratch = vec![f32::NAN; gemm.n_scratch_of_tiles(parts.len()) + MOST_SKIPPED];
        let operands = Operands { gemm, a, b, parts, rounds_b: rounding.b };
        let (rows, scratch) = (c.len() / gemm.n, &mut scratch[..]);
        let start = match start {
            Start::Rows(x) => Start::Rows(&x[first..][..rows]),
            start => start,
        };
        let run = Run { operands, start, first, rows, c, fp16: rounding.c, scratch };
        simd.vectorize(Tiles(run, unit, digits));
    }

    /// All rows, on the unit of this machine too, and in parts as well, as threads do it.
    fn check_run<S: Simd>(self, simd: S, c: &mut [f32]) {
        let n = self.gemm.n;
        let held = c.to_vec();
        self.run(simd, 0, c, Manual);
        let same = |x: &[f32], what: &str| {
            let is_same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
            assert!(x.iter().zip(&*c).all(is_same), "{what} of {:?}, {:?} digits", self.gemm, self.digits);
        };
        if let Some(unit) = amx::Amx::new() {
            let mut real = held.clone();
            self.run(simd, 0, &mut real, unit);
            same(&real, "the unit's product");
        }
        let mut parts = held;
        for (i, c) in parts.chunks_mut(21 * n).enumerate() {
            self.run(simd, 21 * i, c, Manual);
        }
        same(&parts, "parts");
    }
}

const SHAPES: [(usize, usize, usize); 9] = [
    (16, 32, 32),
    (5, 7, 17),
    (64, 64, 16),
    (33, 40, 70),
    (70, 33, 31),
    (1, 1, 1),
    (130, 40, 100),
    (32, 16, 64),
    (70, 16, 97),
];

fn check<S: Simd>(simd: S) {
    let pairs = [
        (half as fn(usize, f32) -> Vec<f32>, half as fn(usize, f32) -> _),
        (half, wide),
        (wide, half),
        (wide, wide),
    ];
    for (m, k, n) in SHAPES {
        for turned in [(false, false), (true, false), (false, true), (true, true)] {
            for (make_a, make_b) in pairs {
                let gemm = Gemm { m, k, n, transposed: turned };
                check_one(simd, gemm, &make_a(2 * m * k, 0.37), &make_b(2 * k * n, 0.73));
            }
        }
    }
}

/// All ways to begin, rounded or not, of one product and of two.
fn check_one<S: Simd>(simd: S, gemm: Gemm, a: &[f32], b: &[f32]) {
    let Gemm { m, k, n, transposed: turned } = gemm;
    let held = wide(m * n, 0.11);
    let (rows, columns) = (wide(m, 0.21), wide(n, 0.31));
    let (one, two) = (&[(0, 0)][..], &[(m * k, 0), (0, k * n)][..]);
    let ways = [
        (Start::Zero, one, false),
        (Start::Zero, one, true),
        (Start::Sums, two, false),
        (Start::Rows(&rows), one, true),
        (Start::Columns(&columns), one, false),
    ];
    for (start, parts, rounds) in ways {
        let rounding = Rounding { b: rounds, c: rounds };
        let case = Case { gemm, a: Left::Plain(a), b, parts, start, rounding, digits: (2, 2) };
        let mut c = held.clone();
        case.check_run(simd, &mut c);
        // More digits than are needed change nothing.
        let mut more = held.clone();
        Case { digits: (3, 3), ..case }.run(simd, 0, &mut more, Manual);
        assert_eq!(more, c, "{gemm:?}");
        for (i, (&found, &held)) in c.iter().zip(&held).enumerate() {
            let (r, column) = (i / n, i % n);
            let from = match start {
                Start::Zero => 0.0,
                Start::Sums => held,
                Start::Rows(_) => rows[r],
                Start::Columns(_) => columns[column],
            };
            let (mut sum, mut size) = (f64::from(from), f64::from(from.abs()));
            for (at_a, at_b) in parts {
                for l in 0..k {
                    let y = at(&b[*at_b..], (k, n), turned.1, l, column);
                    let y = if rounds { to_fp16_grid(y) } else { y };
                    let product = f64::from(at(&a[*at_a..], (m, k), turned.0, r, l)) * f64::from(y);
                    (sum, size) = (sum + product, size + product.abs());
                }
            }
            // A few roundings of f32, of sums no larger than all terms together.
            let most = size * 4.0 * f64::from(f32::EPSILON) + if rounds { sum.abs() / 2048.0 + 6e-8 } else { 0.0 };
            assert!((f64::from(found) - sum).abs() <= most, "{gemm:?} at {r} {column}: {found}, expected {sum}");
            assert!(!rounds || found == to_fp16_grid(found));
        }
    }
}

#[test]
fn sums_are_those_of_exact_products() {
    check(pulp::Scalar::new());
    #[cfg(target_arch = "x86_64")]
    pulp::x86::V4::try_new().into_iter().for_each(check);
}

/// A packed A is read by tiles and by vectors, whether it has been split or not.
#[test]
fn packed_rows_are_what_they_were() {
    let gemm = Gemm { m: 70, k: 45, n: 40, transposed: (false, false) };
    let Gemm { m, k, n, .. } = gemm;
    let b = half(k * n, 0.73);
    let mut mixed = half(m * k, 0.37);
    mixed[20 * k + 3] = 0.1;
    for (a, n_split) in [(half(m * k, 0.37), 5), (wide(m * k, 0.37), 0), (mixed, 4)] {
        for turned in [false, true] {
            let stored: Vec<f32> =
                if turned { (0..m * k).map(|i| at(&a, (m, k), false, i % m, i / m)).collect() } else { a.clone() };
            let gemm = Gemm { transposed: (turned, false), ..gemm };
            let [plain, split] = [false, true].map(|splits| {
                let mut packed = vec![f32::NAN; gemm.n_packed()];
                let simd = pulp::Scalar::new();
                simd.vectorize(Pack { gemm, a: &stored, first: 0, packed: &mut packed, splits });
                packed
            });
            let groups = split.chunks_exact(gemm.n_in_group()).filter(|g| is_split(g)).count();
            assert_eq!(groups, n_split);
            let mut panels = [f32::NAN, f32::NAN].map(|x| vec![x; 9 * PANEL * 30]);
            for (packed, room) in [&plain, &split].into_iter().zip(&mut panels) {
                join(gemm, packed, 0, &(10..40), room);
            }
            assert_eq!(panels[0], panels[1]);
            for (i, x) in panels[0].iter().enumerate() {
                let (row, term) = (i / 30 / PANEL * PANEL + i % PANEL, 10 + i / PANEL % 30);
                assert_eq!(*x, if row < m { a[row * k + term] } else { 0.0 });
            }
            let case = Case {
                gemm,
                a: Left::Plain(&stored),
                b: &b,
                parts: &[(0, 0)],
                start: Start::Zero,
                rounding: Rounding::default(),
                digits: (2, 2),
            };
            let mut expected = vec![f32::NAN; m * n];
            case.check_run(pulp::Scalar::new(), &mut expected);
            let mut c = vec![f32::NAN; m * n];
            Case { a: Left::Packed(&split), ..case }.check_run(pulp::Scalar::new(), &mut c);
            assert!(c.iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits()));
        }
    }
}

/// Of few terms, tiles have two digits of each, and a packed A is never split, though it would suit tiles.
#[test]
fn few_terms_are_what_they_were() {
    let gemm = Gemm { m: 130, k: 12, n: 128, transposed: (false, false) };
    let Gemm { m, k, n, .. } = gemm;
    assert!(gemm.may_suit_tiles());
    let b = wide(k * n, 0.73);
    for a in [half(m * k, 0.37), wide(m * k, 0.37)] {
        let mut packed = vec![f32::NAN; gemm.n_packed()];
        let simd = pulp::Scalar::new();
        simd.vectorize(Pack { gemm, a: &a, first: 0, packed: &mut packed, splits: gemm.splits() });
        assert!(!packed.chunks_exact(gemm.n_in_group()).any(is_split));
        let [found, expected] = [Left::Packed(&packed), Left::Plain(&a)].map(|a| {
            let (parts, rounding) = (&[(0, 0)][..], Rounding::default());
            let case = Case { gemm, a, b: &b, parts, start: Start::Zero, rounding, digits: (2, 2) };
            let mut c = vec![f32::NAN; m * n];
            case.check_run(pulp::Scalar::new(), &mut c);
            c
        });
        assert!(found.iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits()));
    }
}

/// Infinite numbers, NaN and large ones come out as they do without a unit; rows elsewhere do not notice.
#[test]
fn what_is_too_large_is_multiplied_by_vectors() {
    let gemm = Gemm { m: 70, k: 80, n: 100, transposed: (false, false) };
    let Gemm { m, k, n, .. } = gemm;
    let (a, b) = (half(m * k, 0.37), half(k * n, 0.73));
    let product = |a: &[f32], b: &[f32], start: Start<'_>| {
        let rounding = Rounding::default();
        let case = Case { gemm, a: Left::Plain(a), b, parts: &[(0, 0)], start, rounding, digits: (2, 2) };
        let mut c = wide(m * n, 0.11);
        case.check_run(pulp::Scalar::new(), &mut c);
        let mut by_vectors = wide(m * n, 0.11);
        let mut scratch = vec![0.0; gemm.n_scratch(1)];
        let operands = Operands { gemm, a: Left::Plain(a), b, parts: &[(0, 0)], rounds_b: false };
        let (c_, scratch) = (&mut by_vectors[..], &mut scratch[..]);
        let run = Run { operands, start, first: 0, rows: m, c: c_, fp16: false, scratch };
        pulp::Scalar::new().vectorize(Blocks::<false, false>(run));
        (c, by_vectors)
    };
    let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
    for large in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e38, 3e14] {
        for start in [Start::Zero, Start::Sums] {
            let (usual, _) = product(&a, &b, start);
            let mut odd = a.clone();
            odd[20 * k + 70] = large;
            let (c, by_vectors) = product(&odd, &b, start);
            assert!((0..m).filter(|r| r / TILE != 1).all(|r| c[r * n..][..n] == usual[r * n..][..n]), "{large}");
            assert!((20 * n..21 * n).all(|i| same(c[i], by_vectors[i]) || c[i].is_finite()), "{large}");
            let mut odd = b.clone();
            odd[3 * n + 90] = large;
            let (c, by_vectors) = product(&a, &odd, start);
            // The first block of terms of these columns, and nothing else, is multiplied by vectors.
            assert!((0..m * n).filter(|i| i % n < 80).all(|i| c[i].to_bits() == usual[i].to_bits()), "{large}");
            let near = |x: f32, y: f32| same(x, y) || (x - y).abs() <= 1e-5 * (y.abs() + 1.0);
            assert!((0..m * n).filter(|i| i % n >= 80).all(|i| near(c[i], by_vectors[i])), "{large}");
        }
    }
}
