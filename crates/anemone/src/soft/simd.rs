//! Loops compiled for the vectors of the CPU that the program runs on.

use pulp::{Arch, Scalar, WithSimd};
use std::sync::atomic::{AtomicU8, Ordering};

/// Which instructions the software engine uses. Results are the same with all of them, to the bit but for the
/// sign of a NaN, and for those of a matrix unit: it sums in another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instructions {
    /// The widest this CPU has.
    #[default]
    Widest,
    /// AVX-512, and for products the matrix unit AMX: tiles of 16 by 16 numbers. On Linux.
    Amx,
    /// AVX-512: vectors of 16 numbers.
    Avx512,
    /// AVX2 with FMA: vectors of 8 numbers.
    Avx2,
    /// NEON: vectors of 4 numbers.
    Neon,
    /// What every CPU has: no vectors but those the compiler makes, and no instruction that multiplies and adds in
    /// one rounding.
    Portable,
}

impl Instructions {
    /// All of them.
    pub const ALL: [Instructions; 6] = [
        Instructions::Widest,
        Instructions::Amx,
        Instructions::Avx512,
        Instructions::Avx2,
        Instructions::Neon,
        Instructions::Portable,
    ];

    /// How they are called.
    pub fn name(self) -> &'static str {
        match self {
            Instructions::Widest => "widest",
            Instructions::Amx => "amx",
            Instructions::Avx512 => "avx512",
            Instructions::Avx2 => "avx2",
            Instructions::Neon => "neon",
            Instructions::Portable => "portable",
        }
    }

    /// Whether this CPU has them.
    pub fn are_here(self) -> bool {
        match self {
            Instructions::Widest | Instructions::Portable => true,
            Instructions::Amx => super::gemm::has_amx(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => pulp::x86::V4::try_new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => pulp::x86::V3::try_new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => pulp::aarch64::Neon::try_new().is_some(),
            _ => false,
        }
    }
}

static CHOICE: AtomicU8 = AtomicU8::new(Instructions::Widest as u8);

/// Which instructions the software engine uses from now on, in this process; the widest unless said otherwise.
///
/// # Errors
///
/// If this CPU does not have them.
pub fn set_instructions(instructions: Instructions) -> crate::Result<()> {
    if !instructions.are_here() {
        return Err(crate::Error::config(format!("this CPU has no {} instructions", instructions.name())));
    }
    CHOICE.store(instructions as u8, Ordering::Relaxed);
    Ok(())
}

/// Whether the choice includes a matrix unit.
pub(super) fn may_use_amx() -> bool {
    let choice = CHOICE.load(Ordering::Relaxed);
    choice == Instructions::Widest as u8 || choice == Instructions::Amx as u8
}

/// Runs a task compiled for the chosen instructions.
#[inline(always)]
pub(crate) fn dispatch<T: WithSimd>(task: T) -> T::Output {
    let choice = CHOICE.load(Ordering::Relaxed);
    if choice == Instructions::Widest as u8 {
        return Arch::new().dispatch(task);
    }
    dispatch_to(choice, task)
}

#[cold]
fn dispatch_to<T: WithSimd>(choice: u8, task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    {
        let is_avx512 = [Instructions::Amx, Instructions::Avx512].map(|i| i as u8).contains(&choice);
        if let (true, Some(simd)) = (is_avx512, pulp::x86::V4::try_new()) {
            return pulp::Simd::vectorize(simd, task);
        }
        if let (true, Some(simd)) = (choice == Instructions::Avx2 as u8, pulp::x86::V3::try_new()) {
            return pulp::Simd::vectorize(simd, task);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if let (true, Some(simd)) = (choice == Instructions::Neon as u8, pulp::aarch64::Neon::try_new()) {
        return pulp::Simd::vectorize(simd, task);
    }
    let _ = choice;
    pulp::Simd::vectorize(Scalar::new(), task)
}

/// Runs a body that is compiled once for every instruction set, so that its loops become the widest vectors this
/// CPU has. Everything it calls must be `#[inline(always)]`. A closure would do but for one thing: nothing makes
/// the compiler inline the call of it.
macro_rules! vectorized {
    ($life:lifetime, |$simd:pat_param| ($($name:ident: $ty:ty = $value:expr),* $(,)?) $body:block) => {{
        struct Task<$life> {
            $($name: $ty,)*
            life: std::marker::PhantomData<&$life ()>,
        }
        impl<$life> pulp::WithSimd for Task<$life> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, $simd: S) {
                let Task { $($name,)* .. } = self;
                $body
            }
        }
        $crate::soft::simd::dispatch(Task { $($name: $value,)* life: std::marker::PhantomData });
    }};
}
pub(super) use vectorized;
