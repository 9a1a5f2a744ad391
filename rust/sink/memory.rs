//! Weight files in memory.

use super::contract::{Sink, Written};
use crate::error::{Error, Result};
use crate::io::unpublished::Pending;
use crate::memory;
use crate::resolve::Work;
use crate::schedule::Item;

/// Keeps the weight files of an output; small files and copies of the plan are left out.
#[derive(Debug, Default)]
pub struct Memory {
    files: Vec<(String, Vec<u8>)>,
}

impl Memory {
    /// The relative path and the bytes of every weight file, once the job is done.
    #[must_use]
    pub fn into_files(self) -> Vec<(String, Vec<u8>)> {
        self.files
    }
}

impl Sink for Memory {
    fn begin(&mut self, work: &Work) -> Result<()> {
        for file in &work.files {
            let mut bytes = file.header.clone();
            let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
            if memory::resize(&mut bytes, size).is_err() {
                let (header, data) = (file.header.len(), file.data_len);
                let what = format!("output: {header} + {data} bytes do not fit into memory");
                return Err(Error::plan(what).hint("write it to a file instead"));
            }
            self.files.push((file.path.clone(), bytes));
        }
        Ok(())
    }

    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Pending>> {
        let file = self.files.get_mut(item.file);
        let (_, file) = file.ok_or_else(|| Error::internal("no file is open"))?;
        let at = usize::try_from(item.at).unwrap_or(usize::MAX);
        let place = at.checked_add(bytes.len()).and_then(|end| file.get_mut(at..end));
        place.ok_or_else(|| Error::internal("an item outside of its file"))?.copy_from_slice(bytes);
        Ok(None)
    }

    fn commit(&mut self) -> Result<Written> {
        let bytes = self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        Ok(Written { bytes, ..Written::default() })
    }
}
