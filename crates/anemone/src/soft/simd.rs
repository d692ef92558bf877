//! Loops compiled for the vectors of the CPU that the program runs on.

/// Runs a body that is compiled once for every instruction set, so that its loops become the widest vectors this CPU
/// has. Everything it calls must be `#[inline(always)]`. A closure would do but for one thing: nothing makes the
/// compiler inline the call of it.
macro_rules! vectorized {
    ($life:lifetime, ($($name:ident: $ty:ty = $value:expr),* $(,)?) $body:block) => {{
        struct Task<$life> {
            $($name: $ty,)*
            life: std::marker::PhantomData<&$life ()>,
        }
        impl<$life> pulp::WithSimd for Task<$life> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, _: S) {
                let Task { $($name,)* .. } = self;
                $body
            }
        }
        pulp::Arch::new().dispatch(Task { $($name: $value,)* life: std::marker::PhantomData });
    }};
}
pub(super) use vectorized;
