//! Operands of products laid out in the order in which tiles read them.

use super::PANEL;
use super::tiles::{self, TILE};
use crate::soft::fp16;
use crate::soft::prefetch::prefetch_after;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Columns of a matrix that is transposed between those at work and those fetched.
const AHEAD: usize = 4 * TILE;

// Both are functions of their own, not inlined: among what multiplies they would take its registers.

/// Rows of A `[m, k]`, or `[k, m]` if transposed, as panels `[rows / PANEL][terms][PANEL]`, the last filled up
/// with 0.
pub(super) struct PackLeft<'a> {
    pub(super) a: &'a [f32],
    pub(super) shape: (usize, usize),
    pub(super) transposed: bool,
    pub(super) rows: Range<usize>,
    pub(super) terms: Range<usize>,
    pub(super) out: &'a mut [f32],
    /// Of all terms of the panels, which these begin with, and how many those are. What begins with 0 comes first.
    pub(super) at: (usize, usize),
}

impl WithSimd for PackLeft<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PackLeft { a, shape: (m, k), transposed, rows, terms, out, at: (at, n) } = self;
        if terms.is_empty() {
            return;
        }
        // Two panels at a time: what is read of a term of a transposed A is then a line of the caches.
        for (i, out) in out.chunks_mut(2 * n * PANEL).enumerate() {
            let from = (rows.start + i * 2 * PANEL).min(rows.end);
            let height = (out.len() / n).min(rows.end - from);
            if at == 0 && height < out.len() / n {
                out.fill(0.0);
            }
            let (first, second) = out.as_chunks_mut().0.split_at_mut(n);
            let second = if second.is_empty() { second } else { &mut second[at..][..terms.len()] };
            let panels = [&mut first[at..][..terms.len()], second];
            if transposed {
                copy_panels(&a[terms.start * m + from..], m, height, panels);
            } else {
                turn_panels(simd, &a[from * k + terms.start..], k, height, panels);
            }
        }
    }
}

/// A panel: of each term, some rows.
type Panel<'a> = &'a mut [[f32; PANEL]];

/// So many rows of a transposed A, in which terms begin `m` apart, as panels.
#[inline(always)]
fn copy_panels(a: &[f32], m: usize, height: usize, [first, second]: [Panel<'_>; 2]) {
    if height == 2 * PANEL {
        for ((term, first), second) in first.iter_mut().enumerate().zip(second) {
            // Those of the next panels, which lie in the next line.
            prefetch_after(a, term * m + 2 * PANEL);
            let rows = &a[term * m..][..2 * PANEL];
            first.copy_from_slice(&rows[..PANEL]);
            second.copy_from_slice(&rows[PANEL..]);
        }
        return;
    }
    for (i, panel) in [first, second].into_iter().enumerate() {
        let rows = (i * PANEL).min(height)..((i + 1) * PANEL).min(height);
        for (term, out) in panel.iter_mut().enumerate() {
            prefetch_after(a, term * m + rows.end);
            let a = &a[term * m..][rows.clone()];
            if a.len() == PANEL {
                out.copy_from_slice(&a[..PANEL]);
            } else {
                out[..rows.len()].copy_from_slice(a);
            }
        }
    }
}

/// So many rows of an A that is not transposed, which begin `k` apart, as panels.
#[inline(always)]
fn turn_panels<S: Simd>(simd: S, a: &[f32], k: usize, height: usize, [first, second]: [Panel<'_>; 2]) {
    let n = first.len();
    let mut done = 0;
    if S::F32_LANES == TILE && height == TILE {
        for at in (0..n / TILE * TILE).step_by(TILE) {
            // Counted to a constant, as in `turn_whole`.
            let mut tile = [[0; TILE]; TILE];
            for i in 0..TILE {
                prefetch_after(a, i * k + at + AHEAD);
                tile[i].copy_from_slice(pulp::bytemuck::cast_slice(&a[i * k + at..][..TILE]));
            }
            turn_tile(simd, &mut tile);
            let tile: [[[f32; PANEL]; 2]; TILE] = pulp::bytemuck::cast(tile);
            for (i, (first, second)) in first[at..][..TILE].iter_mut().zip(&mut second[at..][..TILE]).enumerate() {
                [*first, *second] = tile[i];
            }
        }
        done = n / TILE * TILE;
    }
    for (i, panel) in [first, second].into_iter().enumerate() {
        let rows = PANEL.min(height.saturating_sub(i * PANEL));
        if rows > 0 {
            let (a, out) = (&a[i * PANEL * k + done..], panel[done..].as_flattened_mut());
            turn(simd, a, k, (rows, n - done), out, PANEL);
        }
    }
}

/// Columns of B `[k, n]`, or `[n, k]` if transposed, as `[terms][width]`, filled up with 0 as far as there is
/// room.
pub(super) struct PackRight<'a> {
    pub(super) b: &'a [f32],
    pub(super) shape: (usize, usize),
    pub(super) transposed: bool,
    pub(super) terms: Range<usize>,
    pub(super) columns: Range<usize>,
    /// Whether it is rounded to fp16.
    pub(super) fp16: bool,
    pub(super) out: &'a mut [f32],
}

impl WithSimd for PackRight<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PackRight { b, shape: (k, n), transposed, terms, columns, fp16, out } = self;
        if terms.is_empty() {
            return;
        }
        let width = out.len() / terms.len();
        if transposed {
            if columns.len() < width {
                out.fill(0.0);
            }
            turn(simd, &b[columns.start * k + terms.start..], k, (columns.len(), terms.len()), out, width);
        } else {
            let b = &b[terms.start * n + columns.start..];
            let is_whole = columns.len() == width;
            // Rows that lie together are one.
            let (width, n) = if is_whole && width == n { (out.len(), out.len()) } else { (width, n) };
            let rows = out.chunks_exact_mut(width).zip(b.chunks(n));
            if is_whole {
                for (out, b) in rows {
                    // A call to copy so few takes longer than copying them.
                    let b = S::as_simd_f32s(&b[..width]).0;
                    for (out, &b) in S::as_mut_simd_f32s(out).0.iter_mut().zip(b) {
                        *out = if fp16 { fp16::round_vector(simd, b) } else { b };
                    }
                }
                return;
            }
            for (out, b) in rows {
                let (out, rest) = out.split_at_mut(columns.len());
                out.copy_from_slice(&b[..columns.len()]);
                rest.fill(0.0);
            }
        }
        if fp16 {
            fp16::round(simd, out);
        }
    }
}

/// `out[j out_step + i] = x[i x_step + j]` for `i < n` and `j < m`. Tiles to come are fetched ahead: no CPU
/// foresees from which lines of the caches a tile is read. At last those are that follow, which are mostly turned
/// next.
#[inline(always)]
fn turn<S: Simd>(simd: S, x: &[f32], x_step: usize, (n, m): (usize, usize), out: &mut [f32], out_step: usize) {
    for i in (0..n).step_by(TILE) {
        let rows = TILE.min(n - i);
        for j in (0..m).step_by(TILE) {
            let columns = TILE.min(m - j);
            if m >= AHEAD {
                let (first, at) = if j + AHEAD < m { (i, j + AHEAD) } else { (i + rows, j + AHEAD - m) };
                for row in first..first + rows {
                    prefetch_after(x, row * x_step + at);
                }
            }
            let (x, out) = (&x[i * x_step + j..], &mut out[j * out_step + i..]);
            if S::F32_LANES == TILE && rows == TILE && columns == TILE {
                turn_whole(simd, x, x_step, out, out_step);
            } else {
                turn_small(simd, x, x_step, (rows, columns), out, out_step);
            }
        }
    }
}

/// As [`turn`], of a tile.
#[inline(always)]
fn turn_whole<S: Simd>(simd: S, x: &[f32], x_step: usize, out: &mut [f32], out_step: usize) {
    // Counted to a constant, so that a tile stays in registers.
    let mut tile = [[0; TILE]; TILE];
    for i in 0..TILE {
        tile[i].copy_from_slice(pulp::bytemuck::cast_slice(&x[i * x_step..][..TILE]));
    }
    turn_tile(simd, &mut tile);
    for i in 0..TILE {
        out[i * out_step..][..TILE].copy_from_slice(pulp::bytemuck::cast_slice(&tile[i]));
    }
}

/// As [`turn`], of a tile at most.
#[inline(always)]
fn turn_small<S: Simd>(
    simd: S,
    x: &[f32],
    x_step: usize,
    (n, m): (usize, usize),
    out: &mut [f32],
    out_step: usize,
) {
    for i in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - i);
        for j in (0..m).step_by(BLOCK) {
            let columns = BLOCK.min(m - j);
            if rows == BLOCK && columns == BLOCK {
                // A closure that gives rows would not be inlined.
                let mut block = [[0.0; BLOCK]; BLOCK];
                for (r, row) in block.iter_mut().enumerate() {
                    row.copy_from_slice(&x[(i + r) * x_step + j..][..BLOCK]);
                }
                for (c, row) in turned(simd, block).iter().enumerate() {
                    out[(j + c) * out_step + i..][..BLOCK].copy_from_slice(row);
                }
            } else {
                for c in 0..columns {
                    for r in 0..rows {
                        out[(j + c) * out_step + i + r] = x[(i + r) * x_step + j + c];
                    }
                }
            }
        }
    }
}

/// Transposes a tile.
#[inline(always)]
pub(super) fn turn_tile<S: Simd>(simd: S, x: &mut tiles::Tile) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = (&simd as &dyn std::any::Any).downcast_ref::<pulp::x86::V4>() {
        return turn_tile_by_shuffles(*simd, x);
    }
    let _ = simd;
    let rows = *x;
    for (i, column) in x.iter_mut().enumerate() {
        for (x, row) in column.iter_mut().zip(&rows) {
            *x = row[i];
        }
    }
}

/// Pairs of rows, then of pairs, then quarters twice are interleaved.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turn_tile_by_shuffles(simd: pulp::x86::V4, x: &mut tiles::Tile) {
    use std::arch::x86_64::{__m512, __m512d};
    let avx = simd.avx512f;
    let rows: [__m512; TILE] = pulp::bytemuck::cast(*x);
    let mut pairs: [__m512d; TILE] = pulp::bytemuck::cast(*x);
    for i in (0..TILE).step_by(2) {
        pairs[i] = pulp::bytemuck::cast(avx._mm512_unpacklo_ps(rows[i], rows[i + 1]));
        pairs[i + 1] = pulp::bytemuck::cast(avx._mm512_unpackhi_ps(rows[i], rows[i + 1]));
    }
    // In each quarter, columns 0 to 3 of four rows.
    let mut fours = rows;
    for i in (0..TILE).step_by(4) {
        for j in 0..2 {
            let (a, b) = (pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j] = pulp::bytemuck::cast(avx._mm512_unpacklo_pd(a, b));
            fours[i + 2 * j + 1] = pulp::bytemuck::cast(avx._mm512_unpackhi_pd(a, b));
        }
    }
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut turned = rows;
    for c in 0..4 {
        let (a, b) = ((fours[c], fours[4 + c]), (fours[8 + c], fours[12 + c]));
        let even = (avx._mm512_shuffle_f32x4::<EVEN>(a.0, a.1), avx._mm512_shuffle_f32x4::<EVEN>(b.0, b.1));
        let odd = (avx._mm512_shuffle_f32x4::<ODD>(a.0, a.1), avx._mm512_shuffle_f32x4::<ODD>(b.0, b.1));
        turned[c] = avx._mm512_shuffle_f32x4::<EVEN>(even.0, even.1);
        turned[4 + c] = avx._mm512_shuffle_f32x4::<EVEN>(odd.0, odd.1);
        turned[8 + c] = avx._mm512_shuffle_f32x4::<ODD>(even.0, even.1);
        turned[12 + c] = avx._mm512_shuffle_f32x4::<ODD>(odd.0, odd.1);
    }
    *x = pulp::bytemuck::cast(turned);
}

/// Rows and columns of what is transposed in registers.
const BLOCK: usize = 8;

type Block = [[f32; BLOCK]; BLOCK];

#[inline(always)]
fn turned<S: Simd>(simd: S, x: Block) -> Block {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        let simd = &simd as &dyn std::any::Any;
        if let Some(simd) = simd.downcast_ref::<V4>() {
            return turned_by_shuffles(**simd, x);
        }
        if let Some(simd) = simd.downcast_ref::<V3>() {
            return turned_by_shuffles(*simd, x);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = simd;
    std::array::from_fn(|c| std::array::from_fn(|r| x[r][c]))
}

/// Pairs of rows, then of pairs, then of halves are interleaved.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned_by_shuffles(simd: pulp::x86::V3, x: Block) -> Block {
    use std::arch::x86_64::__m256;
    let avx = simd.avx;
    let x: [__m256; BLOCK] = x.map(pulp::bytemuck::cast);
    let pairs: [__m256; BLOCK] = std::array::from_fn(|i| match i % 2 {
        0 => avx._mm256_unpacklo_ps(x[i], x[i + 1]),
        _ => avx._mm256_unpackhi_ps(x[i - 1], x[i]),
    });
    // Columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 of four rows.
    let fours: [__m256; BLOCK] = std::array::from_fn(|i| {
        let (low, high) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        match i % 2 {
            0 => avx._mm256_shuffle_ps::<0b01_00_01_00>(low, high),
            _ => avx._mm256_shuffle_ps::<0b11_10_11_10>(low, high),
        }
    });
    let columns: [__m256; BLOCK] = std::array::from_fn(|i| match i / 4 {
        0 => avx._mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]),
        _ => avx._mm256_permute2f128_ps::<0x31>(fours[i - 4], fours[i]),
    });
    columns.map(pulp::bytemuck::cast)
}
