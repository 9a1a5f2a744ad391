//! A kernel at work on one unit: the one place where its types are forgotten.
//!
//! Whoever runs a job knows only [`Run`], [`Pass`] and [`Map`]. What is behind them, the kernel, its sums
//! and what it learned, stays together in a [`Runner`] of that kernel: sums of one can never meet
//! those of another.

use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kernel::{Kernel, Next, Step, Sums};
use super::tile::{Tile, Whole};

/// A formula at work on one unit. Passes are made one after the other, before the map.
pub trait Run: Debug + Send + Sync {
    /// As [`Kernel::by_rows`].
    fn by_rows(&self) -> bool;
    /// As [`Kernel::halo`].
    fn halo(&self) -> usize;
    /// As [`Kernel::longest`].
    fn longest(&self) -> u64;
    /// As [`Kernel::state_bytes`].
    fn state_bytes(&self, tile: usize) -> u64;
    /// As [`Kernel::kept_bytes`].
    fn kept_bytes(&self) -> u64;
    /// As [`Kernel::key`].
    fn key(&self) -> Option<String>;

    /// How many passes there are at most; fewer if statistics were recalled.
    fn passes(&self) -> usize;

    /// Begins with what an earlier job found; `false` if it cannot be true.
    fn recall(&mut self, statistics: &[u64]) -> bool;

    /// Whether that was so.
    fn is_recalled(&self) -> bool;

    /// The pass that is to be made, over a part; `None` if all is known.
    fn pass(&self) -> Option<Box<dyn Pass + '_>>;

    /// Whether all is known that the map needs.
    fn is_known(&self) -> bool;

    /// Ends a pass, all of whose parts were added; the statistics, once all are found.
    fn learn(&self) -> Option<Vec<u64>>;

    /// The map, once all is known.
    fn map(&self) -> Option<Box<dyn Map + '_>>;

    /// Gives back what passes found of a unit that is made.
    fn forget(&self);
}

/// Hands over tiles, one after the other.
pub type Show<'a> = &'a mut dyn FnMut(&mut dyn FnMut(Tile));

/// A part's share of a pass.
pub trait Pass: Send {
    /// The elements of `part` that must be seen.
    fn spans(&self, part: Range<u64>) -> Vec<Range<u64>>;
    /// Adds a cell of the grid, whose tiles `show` hands over one after the other.
    fn cell(&mut self, show: Show);
    /// No cell follows.
    fn flush(&mut self);
    /// Adds all to what the parts before it gave.
    fn add(self: Box<Self>);
}

/// A formula and all that it knows of a unit.
pub trait Map {
    /// As [`Kernel::map`].
    fn map(&self, tile: Tile, out: &mut [f32]);
    /// As [`Kernel::note`].
    fn note(&self) -> Option<&str>;
}

/// A kernel and what it knows of its unit so far.
struct Runner<K: Kernel> {
    kernel: K,
    whole: Whole,
    passes: usize,
    recalled: bool,
    state: Mutex<State<K>>,
}

/// A runner, or what is wrong with the arguments of its kernel.
pub type Running = Result<Box<dyn Run>, String>;

/// A runner for a kernel whose arguments fit.
///
/// # Errors
/// As [`Kernel::check`].
pub fn runner<K: Kernel + 'static>(kernel: K, whole: Whole) -> Running {
    kernel.check(whole.operands)?;
    let state = Mutex::new(State::from(kernel.start(whole)));
    Ok(Box::new(Runner { passes: kernel.passes(), kernel, whole, recalled: false, state }))
}

enum State<K: Kernel> {
    /// A pass is to be made.
    Pass(Arc<Total<K::Sums>>),
    /// Nothing is left to be found.
    Known(Arc<K::Learned>),
}

/// What the parts of a pass gave so far, and what each began with.
struct Total<S> {
    empty: S,
    sums: Mutex<Option<S>>,
}

impl<K: Kernel> From<Next<K>> for State<K> {
    fn from(step: Next<K>) -> Self {
        match step {
            Step::Pass(empty) => Self::Pass(Arc::new(Total { empty, sums: Mutex::new(None) })),
            Step::Known(learned) => Self::Known(Arc::new(learned)),
        }
    }
}

impl<K: Kernel> Runner<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        locked(&self.state)
    }

    fn known(&self) -> Option<Arc<K::Learned>> {
        match &*self.state() {
            State::Known(learned) => Some(Arc::clone(learned)),
            State::Pass(_) => None,
        }
    }
}

/// A panic while the lock was held has already ended the job.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Kernel> Debug for Runner<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kernel.fmt(f)
    }
}

impl<K: Kernel> Run for Runner<K> {
    fn by_rows(&self) -> bool {
        self.kernel.by_rows()
    }

    fn halo(&self) -> usize {
        self.kernel.halo()
    }

    fn longest(&self) -> u64 {
        self.kernel.longest()
    }

    fn state_bytes(&self, tile: usize) -> u64 {
        self.kernel.state_bytes(self.whole.operands, tile)
    }

    fn kept_bytes(&self) -> u64 {
        self.kernel.kept_bytes(self.whole)
    }

    fn key(&self) -> Option<String> {
        self.kernel.key()
    }

    fn passes(&self) -> usize {
        self.passes
    }

    fn recall(&mut self, statistics: &[u64]) -> bool {
        let Some(step) = self.kernel.recall(self.whole, statistics) else { return false };
        self.passes = usize::from(matches!(step, Step::Pass(_)));
        self.recalled = true;
        *self.state() = step.into();
        true
    }

    fn is_recalled(&self) -> bool {
        self.recalled
    }

    fn pass(&self) -> Option<Box<dyn Pass + '_>> {
        match &*self.state() {
            State::Pass(total) => {
                let total = Arc::clone(total);
                Some(Box::new(Part { kernel: &self.kernel, total, cells: Vec::new() }))
            }
            State::Known(_) => None,
        }
    }

    fn is_known(&self) -> bool {
        self.known().is_some()
    }

    fn learn(&self) -> Option<Vec<u64>> {
        let mut state = self.state();
        let State::Pass(total) = &*state else { return None };
        let sums = locked(&total.sums).take().unwrap_or_else(|| total.empty.clone());
        let step = self.kernel.learn(sums);
        let found = match &step {
            Step::Known(learned) if !self.recalled => self.kernel.statistics(learned),
            Step::Known(_) | Step::Pass(_) => None,
        };
        *state = step.into();
        found
    }

    fn map(&self) -> Option<Box<dyn Map + '_>> {
        Some(Box::new(Ready { kernel: &self.kernel, learned: self.known()? }))
    }

    fn forget(&self) {
        *self.state() = self.kernel.start(self.whole).into();
    }
}

/// The sums of a part: one for each cell, or one for all where they are exact.
struct Part<'a, K: Kernel> {
    kernel: &'a K,
    total: Arc<Total<K::Sums>>,
    cells: Vec<K::Sums>,
}

impl<K: Kernel> Pass for Part<'_, K> {
    fn spans(&self, part: Range<u64>) -> Vec<Range<u64>> {
        self.kernel.spans(&self.total.empty, part)
    }

    fn cell(&mut self, show: Show) {
        let last = self.cells.pop_if(|last| last.is_exact());
        let mut sums = last.unwrap_or_else(|| self.total.empty.clone());
        show(&mut |tile| self.kernel.reduce(tile, &mut sums));
        self.cells.push(sums);
    }

    fn flush(&mut self) {
        self.cells.iter_mut().for_each(Sums::flush);
    }

    fn add(self: Box<Self>) {
        let mut total = locked(&self.total.sums);
        for next in self.cells {
            match &mut *total {
                Some(total) => total.add_next(next),
                None => *total = Some(next),
            }
        }
    }
}

struct Ready<'a, K: Kernel> {
    kernel: &'a K,
    learned: Arc<K::Learned>,
}

impl<K: Kernel> Map for Ready<'_, K> {
    fn map(&self, tile: Tile, out: &mut [f32]) {
        self.kernel.map(tile, &self.learned, out);
    }

    fn note(&self) -> Option<&str> {
        K::note(&self.learned)
    }
}
