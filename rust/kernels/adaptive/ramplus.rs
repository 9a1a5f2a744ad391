//! Averages of what several models changed, and what one alone changed a little enlarged.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::{expect_not_negative, expect_operands};
use crate::kernels::kernel::{Kernel, Next, Step, Sums};
use crate::kernels::pointwise::ram::Unique;
use crate::kernels::select::LONGEST;
use crate::kernels::tile::{Tile, Whole};
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

/// How many elements each model alone changed, and how many others changed as well.
#[derive(Clone, Debug)]
pub struct Counts(Vec<u64>);

impl Sums for Counts {
    fn is_exact(&self) -> bool {
        true
    }

    fn add_next(&mut self, next: Self) {
        self.0.iter_mut().zip(next.0).for_each(|(sum, next)| *sum += next);
    }
}

/// What is known of a unit.
#[derive(Debug)]
pub struct Factors {
    counts: Counts,
    /// What each model's own elements are multiplied by.
    alone: Vec<f32>,
}

impl Kernel for RamplusTl {
    type Sums = Counts;
    type Learned = Factors;

    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("ramplus", operands, operands >= 2, "a base and at least one model")?;
        expect_not_negative("ramplus", "r", self.r)?;
        expect_not_negative("ramplus", "alpha", self.alpha)?;
        expect_not_negative("ramplus", "epsilon", self.epsilon)
    }

    fn longest(&self) -> u64 {
        LONGEST
    }

    fn passes(&self) -> usize {
        1
    }

    fn start(&self, whole: Whole) -> Next<Self> {
        Step::Pass(Counts(vec![0; 2 * (whole.operands - 1)]))
    }

    fn reduce(&self, tile: Tile, Counts(counts): &mut Counts) {
        let epsilon = self.epsilon as f32;
        tile.isa.run(Changed { x: tile.operands, epsilon, counts });
    }

    fn learn(&self, counts: Counts) -> Next<Self> {
        let (r, alpha, epsilon) = (self.r as f32, self.alpha as f32, self.epsilon as f32);
        let factor = |[alone, shared]: &[u64; 2]| {
            let rho = *shared as f32 / (*alone as f32).max(epsilon);
            1.0 + r * if rho > alpha { alpha } else { rho }
        };
        let alone = counts.0.as_chunks::<2>().0.iter().map(factor).collect();
        Step::Known(Factors { counts, alone })
    }

    fn key(&self) -> Option<String> {
        Some(format!("changed {:?}", self.epsilon))
    }

    fn statistics(&self, factors: &Factors) -> Option<Vec<u64>> {
        Some(factors.counts.0.clone())
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Next<Self>> {
        let few = |[alone, shared]: &[u64; 2]| {
            alone.checked_add(*shared).is_some_and(|all| all <= whole.elements)
        };
        let (counts, rest) = statistics.as_chunks();
        let right = counts.len() + 1 == whole.operands && rest.is_empty();
        (right && counts.iter().all(few)).then(|| self.learn(Counts(statistics.to_vec())))
    }

    fn state_bytes(&self, _: usize, _: usize) -> u64 {
        (2 * BLOCK * size_of::<f32>()) as u64
    }

    fn map(&self, tile: Tile, factors: &Factors, out: &mut [f32]) {
        let (x, epsilon) = (tile.operands, self.epsilon as f32);
        tile.isa.run(Unique { x, epsilon, alone: &factors.alone, out });
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
