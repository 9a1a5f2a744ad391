//! A new output: its weight files, one after the other, invisible until all are whole.

use super::contract::{Sink, Written};
use crate::error::{Error, Result};
use crate::format::gguf;
use crate::io::admission::Request;
use crate::io::transaction::Transaction;
use crate::io::unpublished::{Pending, Unpublished};
use crate::plan::{Options, Plan};
use crate::resolve::Work;
use crate::schedule::Item;

/// Writes the files of an output one after the other.
#[derive(Debug)]
pub(super) struct Files<'a> {
    work: &'a Work,
    open: Option<(usize, Unpublished)>,
    /// `None` once it is committed.
    transaction: Option<Transaction<'a>>,
    next_file: usize,
    written: u64,
}

impl<'a> Files<'a> {
    pub(super) fn begin(
        plan: &'a Plan,
        work: &'a Work,
        options: &Options,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let request = Request {
            target: &plan.target,
            overwrite: options.overwrite,
            inputs: work.identities(),
            weights: work.files.iter().map(|file| (file.path.as_str(), file.size())).collect(),
            texts: &plan.texts,
            copies: &plan.copies,
        };
        let mut transaction = Transaction::begin(request, options.cache)?;
        let written = transaction.take_over(cancelled)?;
        Ok(Self { work, open: None, transaction: Some(transaction), next_file: 0, written })
    }

    fn transaction(&mut self) -> Result<&mut Transaction<'a>> {
        self.transaction.as_mut().ok_or_else(|| Error::internal("the output is committed"))
    }

    /// Close the open file, if any, and open the next with its header.
    fn next(&mut self) -> Result<()> {
        self.close()?;
        let file = self
            .work
            .files
            .get(self.next_file)
            .ok_or_else(|| Error::internal("no file is left"))?;
        let mut sink = self.transaction()?.create(&file.path)?;
        let _ = sink.append(&file.header)?;
        self.open = Some((self.next_file, sink));
        self.next_file += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some((index, mut sink)) = self.open.take() else { return Ok(()) };
        let file = &self.work.files[index];
        let expected = file.size();
        pad(&mut sink, expected)?;
        if sink.written() != expected {
            let what = format!(
                "{}: {} bytes written, expected {expected}",
                sink.shown().display(),
                sink.written()
            );
            return Err(Error::internal(what));
        }
        self.written += expected;
        self.transaction()?.finished(&file.path, sink)
    }
}

impl Sink for Files<'_> {
    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Pending>> {
        while self.open.as_ref().is_none_or(|(file, _)| *file != item.file) {
            self.next()?;
        }
        match &mut self.open {
            Some((_, sink)) => {
                pad(sink, item.at)?;
                sink.append(bytes)
            }
            None => Err(Error::internal("no file is open")),
        }
    }

    fn commit(&mut self) -> Result<Written> {
        // Files without a single element never had an item.
        while self.next_file < self.work.files.len() {
            self.next()?;
        }
        self.close()?;
        let transaction = self.transaction.take();
        let transaction = transaction.ok_or_else(|| Error::internal("the output is committed"))?;
        let notes = transaction.commit()?;
        Ok(Written { bytes: self.written, notes, ..Written::default() })
    }
}

/// Zeros up to a place that a container leaves before what comes next, or before its end.
fn pad(sink: &mut Unpublished, to: u64) -> Result<()> {
    const LONGEST: usize = gguf::ALIGNMENT as usize;
    let missing = usize::try_from(to.saturating_sub(sink.written())).unwrap_or(usize::MAX);
    if let Some(zeros) = [0; LONGEST].get(..missing) {
        let _ = sink.append(zeros)?; // so little that nobody waits for it
    }
    Ok(()) // what is more is no padding, and is told when the file is closed
}
