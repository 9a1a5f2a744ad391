//! What a formula is to the core: a type, with the types of what its passes sum and teach.

use std::fmt::Debug;
use std::ops::Range;

use super::tile::{Tile, Whole};

/// A formula on slices of f32, with a state of its own.
///
/// Before a unit is mapped a kernel may see all of it, once or several times. [`Kernel::start`] gives
/// the empty sums of the first such pass; every tile is added to a copy of them, the copies are
/// added up in the order of the grid, and [`Kernel::learn`] makes of the total the empty sums of the next
/// pass or what [`Kernel::map`] needs to know. So a pass carries in its sums what those before it
/// found, and nothing can be mapped that is not known.
pub trait Kernel: Debug + Send + Sync + Sized {
    /// What a pass sums, beside what it knows from those before it.
    type Sums: Sums;
    /// What the map needs to know of a unit.
    type Learned: Send + Sync;

    /// Whether the arguments are usable with this many operands; else what is wrong with them.
    ///
    /// # Errors
    /// A sentence without the place, which the caller knows.
    fn check(&self, operands: usize) -> Result<(), String>;

    /// How many passes there are at most.
    fn passes(&self) -> usize;

    /// The first pass, or what is known without one.
    fn start(&self, whole: Whole) -> Next<Self>;

    /// Adds a tile to the sums of a pass.
    fn reduce(&self, tile: Tile, sums: &mut Self::Sums);

    /// What the total of a pass teaches.
    fn learn(&self, total: Self::Sums) -> Next<Self>;

    /// Fills `out` from one tile.
    ///
    /// # Panics
    /// If the number of operands is not one that [`Kernel::check`] accepts, or their lengths differ from
    /// that of `out` by other than [`Tile::around`].
    fn map(&self, tile: Tile, learned: &Self::Learned, out: &mut [f32]);

    /// The elements of `part` that a pass must see; all of it, unless its sums are exact.
    fn spans(&self, _: &Self::Sums, part: Range<u64>) -> Vec<Range<u64>> {
        vec![part]
    }

    /// What is unusual about the unit, if anything is.
    #[must_use]
    fn note(_: &Self::Learned) -> Option<&str> {
        None
    }

    /// Whether a tile must be whole rows.
    fn by_rows(&self) -> bool {
        false
    }

    /// How many rows above and below those to fill `map` must see.
    fn halo(&self) -> usize {
        0
    }

    /// Elements of the longest unit.
    fn longest(&self) -> u64 {
        u64::MAX
    }

    /// Bytes that a worker holds besides the operands, of which it sees `tile` elements at once.
    fn state_bytes(&self, operands: usize, tile: usize) -> u64;

    /// Bytes of what is known of a unit while it is made, whatever the number of workers.
    fn kept_bytes(&self, _: Whole) -> u64 {
        0
    }

    /// Of the arguments, all that the statistics depend on, as text. `None` if there are none, or
    /// too many to keep.
    fn key(&self) -> Option<String> {
        None
    }

    /// What the passes found, in a few numbers by which a later job knows it without a pass. The
    /// arguments that change from merge to merge (shares, weights, lambda) enter after them. Floats
    /// are kept as their bits.
    fn statistics(&self, _: &Self::Learned) -> Option<Vec<u64>> {
        None
    }

    /// What is known of a unit with these statistics, or the pass that is still to be made, the
    /// last; `None` if no pass can have found them.
    fn recall(&self, _: Whole, _: &[u64]) -> Option<Next<Self>> {
        None
    }
}

/// What comes next in a unit.
#[derive(Debug)]
pub enum Step<S, L> {
    /// Another pass, which begins with these sums.
    Pass(S),
    /// The map, which needs to know this.
    Known(L),
}

/// That of a kernel.
pub type Next<K> = Step<<K as Kernel>::Sums, <K as Kernel>::Learned>;

/// Sums over some of a unit, in the making.
pub trait Sums: Clone + Debug + Send + Sync {
    /// Whether they are whole numbers, or stand in order: then the sums of a unit are the same however
    /// it is cut. Sums of floats need the grid.
    fn is_exact(&self) -> bool;

    /// Counts what waits to be counted; called where an item ends.
    fn flush(&mut self) {}

    /// Adds the sums of what follows, which began as these did.
    fn add_next(&mut self, next: Self);
}

/// A kernel that needs to see nothing but the tile in front of it.
pub trait Direct: Debug + Send + Sync {
    /// As [`Kernel::check`].
    ///
    /// # Errors
    /// A sentence without the place.
    fn check(&self, operands: usize) -> Result<(), String>;

    /// As [`Kernel::map`].
    fn map(&self, tile: Tile, out: &mut [f32]);

    /// As [`Kernel::by_rows`].
    fn by_rows(&self) -> bool {
        false
    }

    /// As [`Kernel::halo`].
    fn halo(&self) -> usize {
        0
    }

    /// As [`Kernel::state_bytes`].
    fn state_bytes(&self, _operands: usize, _tile: usize) -> u64 {
        0
    }
}

/// The sums of no pass: there are none.
#[derive(Clone, Copy, Debug)]
pub enum NoSums {}

impl Sums for NoSums {
    fn is_exact(&self) -> bool {
        match *self {}
    }

    fn add_next(&mut self, next: Self) {
        match next {}
    }
}

impl<D: Direct> Kernel for D {
    type Sums = NoSums;
    type Learned = ();

    fn check(&self, operands: usize) -> Result<(), String> {
        Direct::check(self, operands)
    }

    fn passes(&self) -> usize {
        0
    }

    fn start(&self, _: Whole) -> Next<Self> {
        Step::Known(())
    }

    fn reduce(&self, _: Tile, sums: &mut NoSums) {
        match *sums {}
    }

    fn learn(&self, total: NoSums) -> Next<Self> {
        match total {}
    }

    fn map(&self, tile: Tile, (): &(), out: &mut [f32]) {
        Direct::map(self, tile, out);
    }

    fn by_rows(&self) -> bool {
        Direct::by_rows(self)
    }

    fn halo(&self) -> usize {
        Direct::halo(self)
    }

    fn state_bytes(&self, operands: usize, tile: usize) -> u64 {
        Direct::state_bytes(self, operands, tile)
    }
}

/// Sums of squares or of magnitudes, from their bits.
pub(super) fn sums_of(statistics: &[u64]) -> Option<Vec<f64>> {
    let sum = |bits: &u64| Some(f64::from_bits(*bits)).filter(|x| x.is_finite() && *x >= 0.0);
    statistics.iter().map(sum).collect()
}
