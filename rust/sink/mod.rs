//! Where the bytes of a job go: into new files, against existing ones, into memory, or nowhere.
//!
//! # How to add one
//! Implement [`Sink`] in a file of this folder, or hand the job one of your own.

use crate::error::Result;
use crate::io::unpublished::Pending;
use crate::plan::{Mode, Options, Plan};
use crate::resolve::Work;
use crate::schedule::Item;

mod check;
mod contract;
mod files;
mod memory;

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
    cancelled: &dyn Fn() -> bool,
) -> Result<Box<dyn Sink + 'a>> {
    Ok(match options.mode {
        Mode::Measure | Mode::Fit => Box::new(Nowhere),
        Mode::Check => Box::new(Check::open(plan, work)?),
        Mode::Write => Box::new(Files::begin(plan, work, options, cancelled)?),
    })
}
