//! Where the bytes of a job go: into new files, against existing ones, into memory, or nowhere.
//!
//! # How to add one
//! Implement [`Sink`] in a file of this folder, or hand the job one of your own.

use crate::error::{Error, Result};
use crate::io::unpublished::Pending;
use crate::plan::{Mode, Options, Plan};
use crate::resolve::Work;
use crate::schedule::Item;

mod adapter;
mod check;
mod contract;
mod files;
mod memory;

use adapter::Adapter;
pub use adapter::{Describe, Means};
use check::Check;
pub use contract::{Sink, Written};
use files::Files;
pub use memory::Memory;

/// Nothing is kept.
#[derive(Debug)]
pub struct Nowhere;

impl Sink for Nowhere {
    fn append(&mut self, _: &Item, _: &[u8]) -> Result<Option<Pending>> {
        Ok(None)
    }

    fn commit(&mut self) -> Result<Written> {
        Ok(Written::default())
    }
}

/// The sink that plan and options name; everything that can be done before the weights are known is
/// done.
pub fn open<'a>(
    plan: &'a Plan,
    work: &'a Work,
    options: &Options,
    means: Means<'a>,
) -> Result<Box<dyn Sink + 'a>> {
    let cancelled = means.engine.stop;
    if let (Some(spec), Mode::Write | Mode::Measure) = (&plan.adapter, options.mode) {
        return Ok(Box::new(Adapter::begin(plan, spec, work, options, means)?));
    }
    Ok(match options.mode {
        Mode::Measure | Mode::Fit => Box::new(Nowhere),
        Mode::Check if plan.adapter.is_some() => {
            let what = "plan adapter: cannot be compared with an existing file, expected `write`";
            return Err(Error::plan(what).hint("make it again beside the first, and compare"));
        }
        Mode::Check => Box::new(Check::open(plan, work)?),
        Mode::Write => Box::new(Files::begin(plan, work, options, cancelled)?),
    })
}
