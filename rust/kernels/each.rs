//! A formula of single elements, compiled for every instruction set.

#![allow(clippy::inline_always)]

use crate::simd::Body;

/// `out = formula(x_0, x_1, ...)`, element by element.
pub struct Each<'a, const N: usize, F> {
    /// The operands, as long as `out`.
    pub x: [&'a [f32]; N],
    /// What is made of one element of each; every step rounded to f32, nothing fused.
    pub formula: F,
    /// What is filled.
    pub out: &'a mut [f32],
}

impl<const N: usize, F: Fn([f32; N]) -> f32> Body for Each<'_, N, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, formula, out } = self;
        let x = x.map(|x| &x[..out.len()]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = formula(x.map(|x| x[i]));
        }
    }
}
