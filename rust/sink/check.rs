//! An existing output that must be equal, byte for byte.

use super::contract::{Sink, Written};
use crate::error::{Error, Result, quoted};
use crate::io::source::{LocalFile, ReadMode, Source as _};
use crate::io::unpublished::Pending;
use crate::plan::Plan;
use crate::resolve::{Unit, Work};
use crate::schedule::Item;

/// Compares a job's bytes with files that exist.
#[derive(Debug)]
pub(super) struct Check<'a> {
    work: &'a Work,
    files: Vec<LocalFile>,
    buffer: Vec<u8>,
}

impl<'a> Check<'a> {
    pub(super) fn open(plan: &Plan, work: &'a Work) -> Result<Self> {
        let mut check = Self { work, files: Vec::new(), buffer: Vec::new() };
        for file in &work.files {
            let source = LocalFile::open(&plan.target.resolve(&file.path)?, ReadMode::Pread)?;
            let expected = file.header.len() as u64 + file.data_len;
            let here = source.path().display();
            if source.identity().size() != expected {
                let what =
                    format!("{here}: {} bytes, expected {expected}", source.identity().size());
                return Err(
                    Error::plan(what).hint("it was made from another recipe or other inputs")
                );
            }
            let found = source.window(0, file.header.len(), &mut check.buffer)?;
            if *found != file.header {
                let what = format!("{here}: its header differs from what the recipe gives");
                return Err(
                    Error::plan(what).hint("it was made from another recipe, version or inputs")
                );
            }
            drop(found);
            check.files.push(source);
        }
        Ok(check)
    }
}

impl Sink for Check<'_> {
    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Pending>> {
        let (source, file) = (&self.files[item.file], &self.work.files[item.file]);
        let at = file.header.len() as u64 + item.at;
        let found = source.window(at, bytes.len(), &mut self.buffer)?;
        let Some(first) = found.iter().zip(bytes).position(|(a, b)| a != b) else {
            return Ok(None);
        };
        let unit =
            unit_at(self.work, item.file, item.at + first as u64).map_or("?", |unit| &unit.name);
        let what = format!(
            "{}: {} differs at byte {}, expected {:#04x}, got {:#04x}",
            source.path().display(),
            quoted(unit),
            at + first as u64,
            bytes[first],
            found[first]
        );
        Err(Error::plan(what).hint("the file was changed or made by another version"))
    }

    fn commit(&mut self) -> Result<Written> {
        Ok(Written::default())
    }
}

fn unit_at(work: &Work, file: usize, at: u64) -> Option<&Unit> {
    let mut end = 0;
    work.units.iter().filter(|unit| unit.file == file).find(|unit| {
        end += unit.block().len(unit.elements).unwrap_or(0);
        at < end
    })
}
