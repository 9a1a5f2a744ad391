//! A weighted sum, kept between operands.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::expect_operands;
use crate::kernels::kernel::Direct;
use crate::kernels::linear::Linear;
use crate::kernels::tile::Tile;
use crate::simd::{BLOCK, Body};

/// `out = min(max(r, l), u)`, where `r` is the weighted sum of the operands as [`Linear`] makes it,
/// and `l` and `u` are the least and the greatest of the operands that bound it.
///
/// Source: `clamp` of sd-mecha.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Clamp {
    /// One finite weight per operand.
    pub weights: Vec<f64>,
    /// Which operands bound the sum.
    pub bounds: Vec<bool>,
}

impl Clamp {
    fn linear(&self) -> Linear {
        Linear::sum(self.weights.clone())
    }
}

impl Direct for Clamp {
    fn check(&self, operands: usize) -> Result<(), String> {
        let bound = self.bounds.iter().any(|bounds| *bounds);
        let fits = bound && self.bounds.len() == operands;
        let expected = "one bound for each and at least one that is true";
        expect_operands("clamp", operands, fits, expected)?;
        Direct::check(&self.linear(), operands)
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        Direct::map(&self.linear(), tile, out);
        tile.isa.run(Between { x: tile.operands, bounds: &self.bounds, out });
    }
}

/// Holds `out` between the least and the greatest of the operands that bound it. At most a block.
struct Between<'a> {
    x: &'a [&'a [f32]],
    bounds: &'a [bool],
    out: &'a mut [f32],
}

impl Body for Between<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (lower, upper) = (&mut [0.0; BLOCK], &mut [0.0; BLOCK]);
        let n = self.out.len();
        let mut bounds = self.x.iter().zip(self.bounds).filter(|(_, bounds)| **bounds);
        if let Some((x, _)) = bounds.next() {
            lower[..n].copy_from_slice(x);
            upper[..n].copy_from_slice(x);
        }
        for (x, _) in bounds {
            for (x, (lower, upper)) in x.iter().zip(lower.iter_mut().zip(&mut *upper)) {
                *lower = if *x < *lower { *x } else { *lower };
                *upper = if *x > *upper { *x } else { *upper };
            }
        }
        for (out, (lower, upper)) in self.out.iter_mut().zip(lower.iter().zip(&*upper)) {
            let raised = if *out < *lower { *lower } else { *out }; // NaN stays
            *out = if raised > *upper { *upper } else { raised };
        }
    }
}
