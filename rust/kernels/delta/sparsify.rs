//! What a sparsifier is: which differences of a unit stay.

use std::fmt::Debug;
use std::ops::Range;

use serde::Deserialize;

use super::mask::Mask;
use crate::kernels::kernel::{NoSums, Step, Sums};
use crate::kernels::tile::{Tile, Whole};

/// What leaves some of the differences of a unit, and what it must see for that. As
/// [`crate::kernels::kernel::Kernel`], whose part it is.
pub trait Sparsify: Clone + Debug + Send + Sync {
    /// What a pass sums.
    type Sums: Sums;
    /// What the masks follow from.
    type Learned: Debug + Send + Sync;

    /// Whether the arguments are usable with so many models; else what is wrong.
    ///
    /// # Errors
    /// A sentence without the place.
    fn check(&self, models: usize) -> Result<(), String>;

    /// How many passes there are at most.
    fn passes(&self) -> usize;

    /// The first pass, or what is known without one.
    fn start(&self, whole: Whole) -> Step<Self::Sums, Self::Learned>;

    /// Adds a tile to the sums of a pass.
    fn reduce(&self, tile: Tile, sums: &mut Self::Sums);

    /// What the total of a pass teaches.
    fn learn(&self, total: Self::Sums) -> Step<Self::Sums, Self::Learned>;

    /// What stays of a model over one tile.
    fn mask(&self, model: usize, tile: Tile, learned: &Self::Learned) -> Mask;

    /// How many elements, in rows of so many, are mixed at once, if that matters.
    fn step(&self, _row: usize) -> Option<usize> {
        None
    }

    /// The elements of `part` that a pass must see.
    fn spans(&self, _: &Self::Sums, part: Range<u64>) -> Vec<Range<u64>> {
        vec![part]
    }

    /// Whether a tile must be whole rows.
    fn by_rows(&self) -> bool {
        false
    }

    /// Bytes that a worker holds besides the operands: counts, or masks and what they are made of.
    fn state_bytes(&self, models: usize, tile: usize) -> u64;

    /// Bytes that are kept of a unit of so many elements.
    fn kept_bytes(&self, _models: usize, _elements: u64) -> u64 {
        0
    }

    /// Of the arguments, all that the statistics depend on.
    fn key(&self) -> Option<String> {
        None
    }

    /// What the passes found, in a few numbers.
    fn statistics(&self, _: &Self::Learned) -> Option<Vec<u64>> {
        None
    }

    /// What is known of a unit with these statistics; `None` if no pass can have found them.
    fn recall(&self, _: Whole, _: &[u64]) -> Option<Self::Learned> {
        None
    }
}

/// Nothing goes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Everything {}

impl Sparsify for Everything {
    type Sums = NoSums;
    type Learned = ();

    fn check(&self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn passes(&self) -> usize {
        0
    }

    fn start(&self, _: Whole) -> Step<NoSums, ()> {
        Step::Known(())
    }

    fn reduce(&self, _: Tile, sums: &mut NoSums) {
        match *sums {}
    }

    fn learn(&self, total: NoSums) -> Step<NoSums, ()> {
        match total {}
    }

    fn mask(&self, _: usize, _: Tile, (): &()) -> Mask {
        Mask::All
    }

    fn state_bytes(&self, _: usize, _: usize) -> u64 {
        0
    }
}

/// Whether anything of a model goes.
pub fn thins(density: &[f64], model: usize) -> bool {
    density.get(model).is_some_and(|density| *density < 1.0)
}

/// `Err` unless there is one share of 0 to 1 for each model.
pub fn expect_shares(name: &str, shares: &[f64], models: usize) -> Result<(), String> {
    if shares.len() != models {
        return Err(format!("{} of {name}, expected {models}", shares.len()));
    }
    match shares.iter().find(|share| !(0.0..=1.0).contains(*share)) {
        Some(share) => Err(format!("{name} {share}, expected 0 to 1")),
        None => Ok(()),
    }
}

/// `Err` unless there is one key for each model.
pub fn expect_keys(keys: &[u64], models: usize) -> Result<(), String> {
    let n = keys.len();
    if n == models { Ok(()) } else { Err(format!("{n} keys, expected {models}")) }
}
