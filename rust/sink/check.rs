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
    /// Up to where each of them is known to be equal.
    ends: Vec<u64>,
    buffer: Vec<u8>,
}

impl<'a> Check<'a> {
    pub(super) fn open(plan: &Plan, work: &'a Work) -> Result<Self> {
        let mut check = Self { work, files: Vec::new(), ends: Vec::new(), buffer: Vec::new() };
        for file in &work.files {
            let source = LocalFile::open(&plan.target.resolve(&file.path)?, ReadMode::Pread)?;
            let expected = file.size();
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
            check.ends.push(file.header.len() as u64);
        }
        Ok(check)
    }
}

impl Check<'_> {
    /// Compares the zeros that a container leaves up to a place.
    fn padding(&mut self, file: usize, to: u64) -> Result<()> {
        let at = self.ends[file];
        let zeros = vec![0; usize::try_from(to.saturating_sub(at)).unwrap_or(0)]; // a few
        self.compare(file, at, &zeros)
    }

    fn compare(&mut self, file: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let source = &self.files[file];
        let found = source.window(at, bytes.len(), &mut self.buffer)?;
        let Some(first) = found.iter().zip(bytes).position(|(a, b)| a != b) else {
            self.ends[file] = at + bytes.len() as u64;
            return Ok(());
        };
        let at = at + first as u64;
        let unit = unit_at(self.work, file, at).map_or("?", |unit| &unit.name);
        let what = format!(
            "{}: {} differs at byte {at}, expected {:#04x}, got {:#04x}",
            source.path().display(),
            quoted(unit),
            bytes[first],
            found[first]
        );
        Err(Error::plan(what).hint("the file was changed or made by another version"))
    }
}

impl Sink for Check<'_> {
    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Pending>> {
        self.padding(item.file, item.at)?;
        self.compare(item.file, item.at, bytes)?;
        Ok(None)
    }

    fn commit(&mut self) -> Result<Written> {
        for (index, file) in self.work.files.iter().enumerate() {
            self.padding(index, file.size())?;
        }
        Ok(Written::default())
    }
}

/// The last unit that begins before a byte of a file: what is behind it is its padding.
fn unit_at(work: &Work, file: usize, at: u64) -> Option<&Unit> {
    work.units.iter().rfind(|unit| unit.file == file && unit.at <= at)
}
