//! How long differences are before and after chance took some: what makes up for them.

use std::sync::Arc;

use serde::Deserialize;

use super::bits::{Bits, WORD};
use super::mask::Mask;
use super::mix::{Expand, Measure, magnitudes};
use crate::kernels::kernel::{Sums, sums_of};
use crate::kernels::tile::Tile;
use crate::simd::{BLOCK, Isa};

/// What makes up for the elements that went: a factor on those that stay, rounded to f32.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Rescale {
    /// Nothing.
    None,
    /// One over the probability with which the element stayed.
    Inverse,
    /// The sum of all magnitudes over that of those left, both in f64; 1 if one of them is below
    /// 1e-7.
    L1,
}

/// Sums of the magnitudes of every model's differences, in f64 on the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Of all, and of those that stayed.
    each: Vec<[f64; 2]>,
    /// Those that stayed, tile by tile, so that they need not be chosen again.
    chosen: Vec<Vec<(u64, Arc<Bits>)>>,
    /// Whether they are kept.
    keeps: bool,
}

impl Lengths {
    pub fn new(models: usize, keeps: bool) -> Self {
        Self { each: vec![[0.0; 2]; models], chosen: vec![Vec::new(); models], keeps }
    }

    fn add(&mut self, model: usize, [all, left]: [f64; 2]) {
        self.each[model][0] += all;
        self.each[model][1] += left;
    }

    /// The sums, as bits.
    pub fn numbers(&self) -> Vec<u64> {
        self.each.iter().flatten().map(|sum| sum.to_bits()).collect()
    }

    /// Those of an earlier pass.
    pub fn recall(models: usize, statistics: &[u64]) -> Option<Self> {
        let sums = sums_of(statistics).filter(|sums| sums.len() == 2 * models)?;
        let each = sums.as_chunks().0.to_vec();
        Some(Self { chosen: vec![Vec::new(); each.len()], each, keeps: false })
    }

    /// What makes up for what went from a model.
    pub fn scale(&self, model: usize) -> f32 {
        let [all, left] = self.each[model];
        if all < 1e-7 || left < 1e-7 { 1.0 } else { (all / left) as f32 }
    }

    /// What stayed of a model in the tile that starts at `first`, if that was kept.
    pub fn chosen(&self, model: usize, first: u64) -> Option<Arc<Bits>> {
        let chosen = &self.chosen[model];
        let at = chosen.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        Some(Arc::clone(&chosen[at].1))
    }

    /// Adds a tile of a model's differences, of which `mask` tells what stayed.
    pub fn measure(&mut self, model: usize, tile: Tile, mask: &Mask) {
        let (isa, x, base) = (tile.isa, tile.operands[model + 1], tile.operands[0]);
        let mut room = [0.0; BLOCK];
        for first in (0..x.len()).step_by(BLOCK) {
            let block = first..x.len().min(first + BLOCK);
            let (x, base) = (&x[block.clone()], &base[block.clone()]);
            let factors = match mask {
                Mask::Factors(factors) => &factors[block], // 0 or 1
                Mask::Chosen(bits, _) => {
                    let factors = &mut room[..block.len()];
                    isa.run(Expand { words: &bits.words()[first / WORD..], factors });
                    factors
                }
                Mask::All | Mask::Largest(..) => continue,
            };
            let sums = isa.run(Measure { x, base, factors });
            let finite = sums.iter().all(|sum| sum.is_finite());
            self.add(model, if finite { sums } else { in_f64(isa, x, base, factors) });
        }
        if let Mask::Chosen(bits, _) = mask
            && self.keeps
        {
            self.chosen[model].push((tile.first, Arc::clone(bits)));
        }
    }
}

impl Sums for Lengths {
    fn is_exact(&self) -> bool {
        false
    }

    fn add_next(&mut self, next: Self) {
        next.each.iter().enumerate().for_each(|(model, sums)| self.add(model, *sums));
        self.chosen.iter_mut().zip(next.chosen).for_each(|(chosen, next)| chosen.extend(next));
    }
}

/// The same sums without the differences that are not finite, when f32 could not hold one.
#[cold]
fn in_f64(isa: &Isa, x: &[f32], base: &[f32], factors: &[f32]) -> [f64; 2] {
    let d = &magnitudes(x, base)[..x.len()];
    [isa.dot(d, &[1.0; BLOCK][..x.len()]), isa.dot(d, factors)]
}
