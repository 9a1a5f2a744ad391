//! What every sink does.

use crate::error::Result;
use crate::io::unpublished::Pending;
use crate::report::ModuleReport;
use crate::resolve::Work;
use crate::schedule::Item;

/// What became of a job's bytes.
#[derive(Debug, Default)]
pub struct Written {
    /// Bytes written.
    pub bytes: u64,
    /// What happened around the output that its owner should know.
    pub notes: Vec<String>,
    /// The modules of an adapter.
    pub modules: Vec<ModuleReport>,
}

/// Takes the bytes of a job, in order.
pub trait Sink: Send {
    /// Make room for what is coming, unless the sink was made for it.
    fn begin(&mut self, work: &Work) -> Result<()> {
        let _ = work;
        Ok(())
    }

    /// Take the bytes of the next item; what comes back, if anything, should be waited for.
    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Pending>>;

    /// Make the result visible.
    fn commit(&mut self) -> Result<Written>;
}
