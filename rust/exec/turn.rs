//! What is added up in the order of the items, by one worker at a time.

use crate::compute::Done;
use crate::error::{Error, Result};
use crate::kernels::runner::Run;
use crate::report::UnitReport;
use crate::resolve::Work;
use crate::schedule::Part;
use crate::sink::Sink;

/// What only the worker whose turn it is may touch.
pub(super) struct Turn<'a> {
    pub(super) next: usize,
    pub(super) running: usize,
    pub(super) failure: Option<Error>,
    pub(super) stopped: bool,
    pub(super) read: u64,
    pub(super) sink: &'a mut (dyn Sink + 'a),
    pub(super) units: Vec<UnitReport>,
    /// What passes found, for a later job, with the index of the unit.
    pub(super) found: Vec<(usize, Vec<u64>)>,
}

impl Turn<'_> {
    /// Add the sums of an item, in order, or what was seen of it; the last item of a pass teaches the
    /// kernel of its unit.
    pub(super) fn gather(
        &mut self,
        (work, parts): (&Work, &[Part]),
        done: Done,
        ends: Option<(usize, &dyn Run)>,
    ) -> Result<()> {
        self.read += done.read;
        if let (Some(seen), Some(part)) = (done.seen, parts.first()) {
            work.encoding(&work.units[part.unit]).see(&seen)?;
        }
        if let Some(sums) = done.sums {
            sums.add();
        }
        if let Some((unit, run)) = ends {
            self.found.extend(run.learn().map(|found| (unit, found)));
        }
        Ok(())
    }

    /// Add the cells of an item, in order, to the sums of their units.
    pub(super) fn fold(&mut self, (work, parts): (&Work, &[Part]), done: Done) {
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
        for part in parts {
            let unit = &work.units[part.unit];
            if part.range().end == unit.elements {
                work.encoding(unit).made();
            }
        }
    }

    /// Nothing more is begun; the first reason is the one that is given.
    pub(super) fn stop(&mut self, error: Option<Error>) {
        self.stopped = true;
        if self.failure.is_none() {
            self.failure = error;
        }
    }
}
