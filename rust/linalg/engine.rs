//! What the linear algebra runs on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory;
use crate::simd::{Body, Isa};

/// Rows of the long side that are worked on at once.
pub const PANEL: usize = 256;

/// A piece of work that no other needs the result of.
pub type Task<'t> = Box<dyn FnOnce() + Send + 't>;

/// Who does pieces of work: in which order and on how many threads decides no bit.
pub trait Team: Sync {
    /// Does them all.
    fn work(&self, tasks: Vec<Task<'_>>);
}

/// The calling thread.
pub struct Alone;

impl Team for Alone {
    fn work(&self, tasks: Vec<Task<'_>>) {
        for task in tasks {
            task();
        }
    }
}

/// The arithmetic, who does it, who may stop it, and where its memory comes from.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// The arithmetic.
    pub isa: &'static Isa,
    /// Who does it, where it can be cut into pieces.
    pub team: &'a dyn Team,
    /// Asked again and again; once it says so, what is being made is given up and means nothing.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Bytes that could not be had, once that happened: what was being made is given up then too.
    pub lacking: &'a AtomicU64,
}

impl Engine<'_> {
    /// Runs a loop.
    pub fn run<B: Body>(&self, body: B) -> B::Output {
        self.isa.run(body)
    }

    /// Zeros; `None` if there is no memory for them.
    pub fn zeros<T: Copy + Default>(&self, len: usize) -> Option<Vec<T>> {
        let mut out = self.room(len)?;
        out.resize(len, T::default());
        Some(out)
    }

    /// A copy; `None` if there is no memory for it.
    pub fn copy<T: Copy>(&self, of: &[T]) -> Option<Vec<T>> {
        self.collect(of.iter().copied())
    }

    /// All that there is; `None` if there is no memory for it.
    pub fn collect<T>(&self, all: impl ExactSizeIterator<Item = T>) -> Option<Vec<T>> {
        let mut out = self.room(all.len())?;
        out.extend(all);
        Some(out)
    }

    /// Makes room for some more; `None` if there is no memory for them.
    pub fn reserve<T>(&self, out: &mut Vec<T>, more: usize) -> Option<()> {
        let bytes = (more * size_of::<T>()) as u64;
        out.try_reserve(more).map_err(|_| self.lacking.store(bytes, Ordering::Relaxed)).ok()
    }

    /// Nothing yet, and room for so many; `None` if there is no memory for them.
    pub fn room<T>(&self, len: usize) -> Option<Vec<T>> {
        memory::room(len).map_err(|bytes| self.lacking.store(bytes, Ordering::Relaxed)).ok()
    }

    /// Whether what is being made is to be given up.
    #[must_use]
    pub fn stopped(&self) -> bool {
        (self.stop)()
    }
}

#[cfg(test)]
impl Engine<'static> {
    pub fn of(isa: &'static Isa) -> Self {
        Self { isa, team: &Alone, stop: &|| false, lacking: Box::leak(Box::default()) }
    }

    pub fn best() -> Self {
        Self::of(Isa::best())
    }
}
