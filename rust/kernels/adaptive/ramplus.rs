//! Averages of what several models changed, and what one alone changed a little enlarged.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use super::{Facts, Formula, expect_not_negative, expect_operands};
use crate::kernels::pointwise::Unique;
use crate::kernels::sums::Sums;
use crate::kernels::{Stretch, Whole};
use crate::simd::{BLOCK, Body};

/// As `ram`, where an element that the model `i` alone changed is multiplied by
/// `1 + r min(rho_i, alpha)`, with `rho_i = s_i / max(u_i, epsilon)`: of the elements the model
/// changed, `u_i` were changed by it alone and `s_i` by others as well.
///
/// Counts are exact; the factor is formed in f32 in that order.
///
/// Source: Reinforced Agent Merging, arXiv:2601.13572, as `ramplus_tl` of mergekit 0.1.5.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RamplusTl {
    /// How much is added for each time a model's shared elements outnumber its own.
    pub r: f64,
    /// The largest such number that counts.
    pub alpha: f64,
    /// Differences up to this count as none.
    pub epsilon: f64,
}

impl Formula for RamplusTl {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("ramplus", operands, operands >= 2, "a base and at least one model")?;
        expect_not_negative("ramplus", "r", self.r)?;
        expect_not_negative("ramplus", "alpha", self.alpha)?;
        expect_not_negative("ramplus", "epsilon", self.epsilon)
    }

    fn passes(&self) -> usize {
        1
    }

    fn start(&self, _: usize, whole: Whole, _: &Facts) -> Option<Sums> {
        Some(Sums::Counts(vec![0; 2 * (whole.operands - 1)]))
    }

    fn reduce(&self, _: usize, stretch: Stretch, _: &Facts, sums: &mut Sums) {
        let Sums::Counts(counts) = sums else { return };
        let epsilon = self.epsilon as f32;
        stretch.isa.run(Changed { x: stretch.operands, epsilon, counts });
    }

    fn learn(&self, _: usize, sums: &Sums, _: &Facts) -> Facts {
        let Sums::Counts(counts) = sums else { return Facts::default() };
        let (r, alpha, epsilon) = (self.r as f32, self.alpha as f32, self.epsilon as f32);
        let factor = |[alone, shared]: &[u64; 2]| {
            let rho = *shared as f32 / (*alone as f32).max(epsilon);
            1.0 + r * if rho > alpha { alpha } else { rho }
        };
        let (counts, _) = counts.as_chunks::<2>();
        Facts { numbers: counts.iter().map(factor).collect(), ..Facts::default() }
    }

    fn look(&self) -> Option<String> {
        Some(format!("changed {:?}", self.epsilon))
    }

    fn statistics(&self, sums: &Sums, _: &Facts) -> Option<Vec<u64>> {
        let Sums::Counts(counts) = sums else { return None };
        Some(counts.clone())
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Facts> {
        let few = |[alone, shared]: &[u64; 2]| {
            alone.checked_add(*shared).is_some_and(|all| all <= whole.elements)
        };
        let (counts, rest) = statistics.as_chunks();
        let right = counts.len() + 1 == whole.operands && rest.is_empty();
        let sums = (right && counts.iter().all(few)).then(|| Sums::Counts(statistics.to_vec()))?;
        Some(self.learn(0, &sums, &Facts::default()))
    }

    fn state_bytes(&self, _: usize, _: usize) -> u64 {
        (2 * BLOCK * size_of::<f32>()) as u64
    }

    fn map(&self, stretch: Stretch, facts: &Facts, out: &mut [f32]) {
        let (x, epsilon) = (stretch.operands, self.epsilon as f32);
        stretch.isa.run(Unique { x, epsilon, alone: &facts.numbers, out });
    }
}

/// Counts, for each model, the elements that it alone changed, and those that others changed too.
/// At most a block.
struct Changed<'a> {
    x: &'a [&'a [f32]],
    epsilon: f32,
    counts: &'a mut [u64],
}

impl Body for Changed<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, epsilon, counts } = self;
        let (base, models) = (x[0], &x[1..]);
        let by = &mut [0_u32; BLOCK][..base.len()];
        for x in models {
            for (by, (x, b)) in by.iter_mut().zip(x.iter().zip(base)) {
                *by += u32::from((x - b).abs() > epsilon);
            }
        }
        for (x, counts) in models.iter().zip(counts.chunks_mut(2)) {
            let (mut alone, mut shared) = (0_u32, 0_u32);
            for (by, (x, b)) in by.iter().zip(x.iter().zip(base)) {
                let changed = (x - b).abs() > epsilon;
                alone += u32::from(changed && *by == 1);
                shared += u32::from(changed && *by > 1);
            }
            counts[0] += u64::from(alone);
            counts[1] += u64::from(shared);
        }
    }
}
