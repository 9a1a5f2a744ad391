//! What an embedder brings to a job.

use crate::error::Result;
use crate::resolve::Sources;
use crate::sink::{Describe, Sink};

/// Called on the calling thread, at most ten times a second, with bytes done and bytes in all; an error
/// stops the job.
pub type Observer<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// What an embedder brings to a job.
#[derive(Default)]
pub struct Given<'a> {
    /// The sources that the plan calls `given`, by name.
    pub sources: Sources,
    /// Where the result goes instead of the plan's target.
    pub sink: Option<&'a mut dyn Sink>,
    /// What an adapter says of itself once its ranks are known.
    pub describe: Option<Box<Describe<'a>>>,
}
