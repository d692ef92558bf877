//! The matrix unit of x86-64 (Intel AMX), which multiplies tiles of bf16 and adds to sums in f32.
// Its instructions have no safe names, nor unsafe ones in stable Rust; small, so that it can be judged.
#![allow(unsafe_code)]

use super::tiles::{MOST_DIGITS, Panels, ROWS, TILE, Tiles, Unit};
use pulp::Simd;
use pulp::x86::V4;
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Whether this CPU has the unit, and vectors as long as its rows, and the system lets this process use it.
pub(in crate::soft) fn is_here() -> bool {
    static IS_HERE: OnceLock<bool> = OnceLock::new();
    *IS_HERE.get_or_init(|| {
        // Intel's manual, volume 2, CPUID: leaf 7, EDX, bits 22 (products of bf16) and 24 (tiles).
        const NEEDED: u32 = 1 << 22 | 1 << 24;
        let has_unit = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED;
        has_unit && V4::try_new().is_some() && is_permitted()
    })
}

/// Linux gives the room for the registers to those who ask, once for all threads.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this call reads and writes no memory of ours; the registers that calls of the system use are named.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The unit, set up for the thread that has it, which runs nothing but products meanwhile.
pub(super) struct Amx {
    simd: V4,
    /// It is its thread's.
    _not_send: PhantomData<*const ()>,
}

impl Amx {
    pub(super) fn new() -> Option<Amx> {
        if !is_here() {
            return None;
        }
        let mut shapes = [0; 64];
        // SAFETY: the unit is here and permitted, and writes these 64 bytes.
        unsafe { asm!("sttilecfg [{}]", in(reg) &raw mut shapes, options(nostack)) }
        // It stays set up, unless somebody else uses it too; to see that takes a tenth of the time.
        if shapes != SHAPES {
            // SAFETY: as above, and reads them.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly)) }
        }
        Some(Amx { simd: V4::try_new()?, _not_send: PhantomData })
    }
}

pub(super) fn run(tiles: Tiles<'_, Amx>) {
    let simd = tiles.1.simd;
    Simd::vectorize(simd, tiles);
    AWAKE_AT.set(now());
}

thread_local! {
    /// When this thread knew its unit to be awake.
    static AWAKE_AT: Cell<u64> = const { Cell::new(0) };
}

/// Ticks of the CPU's clock, of which 2 to 4 are a nanosecond.
fn now() -> u64 {
    // SAFETY: every x86-64 has this instruction.
    unsafe { _rdtsc() }
}

/// Has this thread's unit stay awake for some more time, if it is: after half a microsecond without a product it
/// sleeps, and takes a third to wake, as measured. To be called between short pieces of other work.
pub(in crate::soft) fn stay_awake() {
    const STILL: u64 = 1000;
    let at = AWAKE_AT.get();
    if at > 0 {
        let now = now();
        if now.wrapping_sub(at) < STILL
            && let Some(mut unit) = Amx::new()
        {
            unit.keep_awake();
            AWAKE_AT.set(now);
        }
    }
}

/// What `ldtilecfg` reads: the palette, then, from byte 16 on, bytes of a row of each tile, and from 48 on its
/// rows.
static SHAPES: [u8; 64] = {
    let mut shapes = [0; 64];
    shapes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        shapes[16 + 2 * tile] = 64;
        shapes[48 + tile] = TILE as u8;
        tile += 1;
    }
    shapes
};

/// Calls a macro for the tiles that blocks of A and B have: with the bytes of a block of each, and with the
/// products of their tiles in the order of [`Unit`]: what is new in each, and the bytes before the tiles.
macro_rules! with_products {
    ($tiles:expr, $kernel:ident) => {
        match $tiles {
            (2, 1) => $kernel!(2048, 1024, (ab 0 0) (a 1024 0)),
            (_, 1) => $kernel!(3072, 1024, (ab 0 0) (a 1024 0) (a 2048 0)),
            (2, 2) => $kernel!(2048, 2048, (ab 0 0) (b 0 1024) (a 1024 1024) (b 1024 0)),
            (2, _) => $kernel!(2048, 3072, (ab 0 0) (b 0 1024) (b 0 2048) (a 1024 2048) (b 1024 1024) (b 1024 0)),
            (_, 2) => $kernel!(3072, 2048, (ab 0 0) (b 0 1024) (a 1024 1024) (b 1024 0) (a 2048 0) (b 2048 1024)),
            _ => $kernel!(3072, 3072, (ab 0 0) (b 0 1024) (b 0 2048) (a 1024 2048) (b 1024 1024) (b 1024 0)
                (a 2048 0) (b 2048 1024) (b 2048 2048)),
        }
    };
}

/// Sums from zero or from `c`, the products of all blocks, the sums back to `c`.
macro_rules! tiles {
    ($(($sum:literal, $at:literal))*, [$($block:expr),*], $($operand:tt)*) => {
        asm!(
            $(concat!("tilezero ", $sum),)*
            "test {adds:e}, {adds:e}",
            "jz 2f",
            $(concat!("tileloadd ", $sum, ", ", $at),)*
            "2:",
            $($block,)*
            "dec {n}",
            "jnz 2b",
            $(concat!("tilestored ", $at, ", ", $sum),)*
            step = in(reg) size_of::<f32>() * TILE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
            $($operand)*
        )
    };
}

/// A product of tiles in [`Amx::square`]; what is new is loaded as late as can be.
macro_rules! square_product {
    (ab $a:literal $b:literal) => {
        concat!(
            "tileloadd tmm4, [{a0} + {step} + ",
            $a,
            "]\n tileloadd tmm6, [{b0} + {step} + ",
            $b,
            "]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n tileloadd tmm7, [{b1} + {step} + ",
            $b,
            "]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n tileloadd tmm5, [{a1} + {step} + ",
            $a,
            "]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
    (a $a:literal $b:literal) => {
        concat!(
            "tileloadd tmm4, [{a0} + {step} + ",
            $a,
            "]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n tdpbf16ps tmm1, tmm4, tmm7\n",
            "tileloadd tmm5, [{a1} + {step} + ",
            $a,
            "]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
    (b $a:literal $b:literal) => {
        concat!(
            "tileloadd tmm6, [{b0} + {step} + ",
            $b,
            "]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n tdpbf16ps tmm2, tmm5, tmm6\n",
            "tileloadd tmm7, [{b1} + {step} + ",
            $b,
            "]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n tdpbf16ps tmm3, tmm5, tmm7"
        )
    };
}

/// A product of tiles in [`Amx::column`].
macro_rules! column_product {
    ($new:ident $a:literal $b:literal) => {
        concat!(
            "tileloadd tmm7, [{b} + {step} + ",
            $b,
            "]\n",
            "tileloadd tmm4, [{a0} + {step} + ",
            $a,
            "]\n tdpbf16ps tmm0, tmm4, tmm7\n",
            "tileloadd tmm5, [{a1} + {step} + ",
            $a,
            "]\n tdpbf16ps tmm1, tmm5, tmm7\n",
            "tileloadd tmm6, [{a2} + {step} + ",
            $a,
            "]\n tdpbf16ps tmm2, tmm6, tmm7\n",
            "tileloadd tmm4, [{a3} + {step} + ",
            $a,
            "]\n tdpbf16ps tmm3, tmm4, tmm7"
        )
    };
}

/// Whether panels have all tiles of so many blocks, as many in each as a kernel may read.
fn have<const N: usize>(panels: &Panels<'_, N>, least: usize, n_blocks: usize) -> bool {
    (least..=MOST_DIGITS).contains(&panels.n_in_block)
        && panels.tiles.iter().all(|tiles| tiles.len() >= n_blocks * panels.n_in_block)
}

impl Unit for Amx {
    fn square(
        &mut self,
        a: Panels<'_, 2>,
        b: Panels<'_, 2>,
        n: usize,
        (c, step, adds): (&mut [f32], usize, bool),
    ) {
        assert!(n > 0 && have(&a, 2, n) && have(&b, 1, n));
        assert!(step >= 2 * TILE && c.len() >= (2 * TILE - 1) * step + 2 * TILE);
        let c = c.as_mut_ptr();
        macro_rules! kernel {
            ($a_block:literal, $b_block:literal, $(($($product:tt)*))*) => {
                tiles!(
                    ("tmm0", "[{c} + {c_step}]") ("tmm1", "[{c} + {c_step} + 64]")
                    ("tmm2", "[{c2} + {c_step}]") ("tmm3", "[{c2} + {c_step} + 64]"),
                    [$(square_product!($($product)*),)* concat!("add {a0}, ", $a_block), concat!("add {a1}, ", $a_block),
                        concat!("add {b0}, ", $b_block), concat!("add {b1}, ", $b_block)],
                    a0 = inout(reg) a.tiles[0].as_ptr() => _, a1 = inout(reg) a.tiles[1].as_ptr() => _,
                    b0 = inout(reg) b.tiles[0].as_ptr() => _, b1 = inout(reg) b.tiles[1].as_ptr() => _,
                    n = inout(reg) n => _, adds = in(reg) u32::from(adds),
                    c = in(reg) c, c2 = in(reg) c.add(TILE * step), c_step = in(reg) size_of::<f32>() * step,
                )
            };
        }
        // SAFETY: the unit is set up for tiles of 16 rows of 64 bytes. Of A and B, `n` blocks of `n_in_block`
        // tiles are read, 1024 bytes each, two or three of A and one to three of B; of C, 32 rows of 32 numbers,
        // `step` apart, are read and written. All lie in the slices.
        unsafe { with_products!((a.n_in_block, b.n_in_block), kernel) }
    }

    fn column(&mut self, a: Panels<'_, ROWS>, b: Panels<'_, 1>, n: usize, (c, adds): (&mut [f32], bool)) {
        assert!(n > 0 && have(&a, 2, n) && have(&b, 1, n) && c.len() >= ROWS * TILE * TILE);
        macro_rules! kernel {
            ($a_block:literal, $b_block:literal, $(($($product:tt)*))*) => {
                tiles!(
                    ("tmm0", "[{c} + {step}]") ("tmm1", "[{c} + {step} + 1024]")
                    ("tmm2", "[{c} + {step} + 2048]") ("tmm3", "[{c} + {step} + 3072]"),
                    [$(column_product!($($product)*),)* concat!("add {a0}, ", $a_block), concat!("add {a1}, ", $a_block),
                        concat!("add {a2}, ", $a_block), concat!("add {a3}, ", $a_block), concat!("add {b}, ", $b_block)],
                    a0 = inout(reg) a.tiles[0].as_ptr() => _, a1 = inout(reg) a.tiles[1].as_ptr() => _,
                    a2 = inout(reg) a.tiles[2].as_ptr() => _, a3 = inout(reg) a.tiles[3].as_ptr() => _,
                    b = inout(reg) b.tiles[0].as_ptr() => _, n = inout(reg) n => _, adds = in(reg) u32::from(adds),
                    c = in(reg) c.as_mut_ptr(),
                )
            };
        }
        // SAFETY: as above, of C 64 rows of 16 numbers.
        unsafe { with_products!((a.n_in_block, b.n_in_block), kernel) }
    }

    fn keep_awake(&mut self) {
        // SAFETY: the unit is set up, and registers that nobody reads are multiplied.
        unsafe {
            asm!("tdpbf16ps tmm0, tmm1, tmm2", out("tmm0") _, options(nomem, nostack, preserves_flags));
        }
    }
}
