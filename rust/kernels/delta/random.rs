//! Chance decides which differences stay.

use serde::Deserialize;

use super::lengths::{Lengths, Rescale};
use super::mask::Mask;
use super::mix::Noise;
use super::sparsify::{Sparsify, expect_keys, expect_shares, thins};
use crate::kernels::kernel::Step;
use crate::kernels::tile::{Tile, Whole};
use crate::math::noise;
use crate::simd::BLOCK;

/// Chance decides.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// The shares that stay.
    pub density: Vec<f64>,
    /// The keys of the noise.
    pub keys: Vec<u64>,
    /// What makes up for what went.
    pub rescale: Rescale,
}

impl Random {
    /// A factor for each element of a model: `scale`, or 0.
    fn factors(&self, model: usize, tile: Tile, scale: f32) -> Mask {
        if !thins(&self.density, model) {
            return Mask::All;
        }
        let mut factors = vec![0.0; tile.operands[0].len()];
        let below = noise::threshold(self.density[model]);
        let mut words = [0; BLOCK];
        for (i, factors) in factors.chunks_mut(BLOCK).enumerate() {
            let words = &mut words[..factors.len()];
            let first = tile.first + (i * BLOCK) as u64;
            noise::words(tile.isa, self.keys[model], first, words);
            tile.isa.run(Noise { words, below, scale, factors });
        }
        Mask::Factors(factors)
    }
}

impl Sparsify for Random {
    type Sums = Lengths;
    type Learned = Option<Lengths>;

    fn check(&self, models: usize) -> Result<(), String> {
        expect_shares("density", &self.density, models)?;
        expect_keys(&self.keys, models)
    }

    fn passes(&self) -> usize {
        usize::from(self.rescale == Rescale::L1)
    }

    fn start(&self, whole: Whole) -> Step<Lengths, Option<Lengths>> {
        let models = whole.operands - 1;
        let measured = self.passes() > 0 && (0..models).any(|model| thins(&self.density, model));
        if measured { Step::Pass(Lengths::new(models, false)) } else { Step::Known(None) }
    }

    fn reduce(&self, tile: Tile, lengths: &mut Lengths) {
        for model in 0..self.density.len() {
            lengths.measure(model, tile, &self.factors(model, tile, 1.0));
        }
    }

    fn learn(&self, total: Lengths) -> Step<Lengths, Option<Lengths>> {
        Step::Known(Some(total))
    }

    fn mask(&self, model: usize, tile: Tile, lengths: &Option<Lengths>) -> Mask {
        let scale = match self.rescale {
            Rescale::Inverse => (1.0 / self.density[model]) as f32,
            Rescale::None | Rescale::L1 => lengths.as_ref().map_or(1.0, |of| of.scale(model)),
        };
        self.factors(model, tile, scale)
    }

    fn state_bytes(&self, models: usize, tile: usize) -> u64 {
        (models * tile.max(BLOCK) * size_of::<f32>()) as u64
    }

    fn key(&self) -> Option<String> {
        (self.passes() > 0).then(|| format!("{self:?}"))
    }

    fn statistics(&self, lengths: &Option<Lengths>) -> Option<Vec<u64>> {
        lengths.as_ref().map(Lengths::numbers)
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Option<Lengths>> {
        self.key()?;
        Lengths::recall(whole.operands - 1, statistics).map(Some)
    }
}
