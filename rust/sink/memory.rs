//! Weight files in memory.

use super::contract::{Sink, Written};
use crate::error::{Error, Result};
use crate::io::unpublished::Pending;
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
            let size = usize::try_from(file.data_len).ok();
            let size = size.and_then(|size| size.checked_add(file.header.len()));
            let mut bytes = Vec::new();
            let reserved = size.is_some_and(|size| bytes.try_reserve_exact(size).is_ok());
            if !reserved {
                let (header, data) = (file.header.len(), file.data_len);
                let what = format!("output: {header} + {data} bytes do not fit into memory");
                return Err(Error::plan(what).hint("write it to a file instead"));
            }
            bytes.extend_from_slice(&file.header);
            self.files.push((file.path.clone(), bytes));
        }
        Ok(())
    }

    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Pending>> {
        let file = self.files.get_mut(item.file);
        let (_, file) = file.ok_or_else(|| Error::internal("no file is open"))?;
        file.extend_from_slice(bytes); // reserved, so this moves nothing
        Ok(None)
    }

    fn commit(&mut self) -> Result<Written> {
        let bytes = self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        Ok(Written { bytes, ..Written::default() })
    }
}
