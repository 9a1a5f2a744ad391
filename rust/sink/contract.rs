//! What every sink does.

use crate::error::Result;
use crate::io::sink::Settle;
use crate::resolve::Work;
use crate::schedule::Item;

/// Takes the bytes of a job, in order.
pub trait Sink: Send {
    /// Make room for what is coming, unless the sink was made for it.
    fn begin(&mut self, work: &Work) -> Result<()> {
        let _ = work;
        Ok(())
    }

    /// Take the bytes of the next item; what comes back, if anything, should be waited for.
    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Settle>>;

    /// Make the result visible; returns the bytes written.
    fn commit(&mut self) -> Result<u64>;
}
