//! What is added up in the order of the items, by one worker at a time.

use std::sync::Arc;

use crate::compute::Done;
use crate::error::Error;
use crate::kernels::{Learned, Sums};
use crate::output::Output;
use crate::report::UnitReport;
use crate::resolve::Looked;
use crate::schedule::Part;

/// What only the worker whose turn it is may touch.
pub(super) struct Turn<'a> {
    pub(super) next: usize,
    pub(super) running: usize,
    pub(super) failure: Option<Error>,
    pub(super) stopped: bool,
    pub(super) read: u64,
    pub(super) output: Output<'a>,
    pub(super) units: Vec<UnitReport>,
    /// The sums of the pass that is being made.
    pub(super) sums: Option<Sums>,
    /// What the passes before taught of the unit that is being made.
    pub(super) learned: Arc<Learned>,
    /// What passes found, for a later job, with the index of the unit.
    pub(super) found: Vec<(usize, Vec<u64>)>,
}

impl Turn<'_> {
    /// Add the sums of an item, in order; the last item of a pass teaches the kernel.
    pub(super) fn gather(&mut self, done: Done, ends: Option<(Looked, usize)>) {
        self.read += done.read;
        for next in done.sums {
            match &mut self.sums {
                Some(sums) => sums.merge_next(&next),
                None => self.sums = Some(next),
            }
        }
        if let Some((unit, pass)) = ends
            && let Some(sums) = self.sums.take()
        {
            let (learned, found) = unit.learn(pass, &sums, &self.learned);
            self.found.extend(found);
            self.learned = Arc::new(learned);
        }
    }

    /// Add the cells of an item, in order, to the sums of their units.
    pub(super) fn fold(&mut self, parts: &[Part], done: Done) {
        self.read += done.read;
        for (part, cell) in done.cells {
            let unit = parts[part].unit;
            match self.units.last_mut() {
                Some(last) if last.unit == unit => last.stats.merge_next(&cell),
                last => {
                    if let Some(last) = last {
                        last.stats.finish();
                    }
                    let of_part = done.notes.iter().find(|(at, _)| *at == part);
                    let note = of_part.map(|(_, note)| note.clone());
                    self.units.push(UnitReport { unit, note, stats: cell });
                }
            }
        }
    }

    /// Nothing more is begun; the first reason is the one that is told.
    pub(super) fn stop(&mut self, error: Option<Error>) {
        self.stopped = true;
        if self.failure.is_none() {
            self.failure = error;
        }
    }
}
