//! Where the bytes of a job go: into a new output, against an existing one, or nowhere.

use crate::error::{Error, Result, quoted};
use crate::io::sink::{Settle, Sink};
use crate::io::source::{LocalFile, ReadMode, Source as _};
use crate::io::transaction::{Manner, Transaction};
use crate::plan::{Mode, Options, Plan};
use crate::resolve::{Unit, Work};
use crate::schedule::Item;

/// The destination of a job.
#[derive(Debug)]
pub enum Output<'a> {
    /// A new output, invisible until it is whole.
    New(Writer<'a>),
    /// An existing output that must be equal.
    Existing(Checker<'a>),
    /// Nothing is kept.
    Nowhere,
}

impl<'a> Output<'a> {
    /// Open the destination and do everything that can be done before the weights are known.
    pub fn begin(
        plan: &'a Plan,
        work: &'a Work,
        options: &Options,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        match options.mode {
            Mode::Measure | Mode::Fit => Ok(Self::Nowhere),
            Mode::Check => Checker::open(plan, work).map(Self::Existing),
            Mode::Write => Writer::begin(plan, work, options, cancelled).map(Self::New),
        }
    }

    /// Take the bytes of the next item.
    pub fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Settle>> {
        match self {
            Self::New(writer) => writer.append(item, bytes),
            Self::Existing(checker) => checker.compare(item, bytes).map(|()| None),
            Self::Nowhere => Ok(None),
        }
    }

    /// Make a new output visible; returns the bytes written.
    pub fn commit(self, plan: &Plan) -> Result<u64> {
        match self {
            Self::New(writer) => writer.commit(plan),
            Self::Existing(_) | Self::Nowhere => Ok(0),
        }
    }
}

/// Writes the files of an output one after the other.
#[derive(Debug)]
pub struct Writer<'a> {
    work: &'a Work,
    transaction: Transaction<'a>,
    open: Option<(usize, Sink)>,
    next_file: usize,
    written: u64,
}

impl<'a> Writer<'a> {
    fn begin(
        plan: &'a Plan,
        work: &'a Work,
        options: &Options,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let weights: u64 = work.files.iter().map(|f| f.header.len() as u64 + f.data_len).sum();
        let copied = plan.copies.iter().map(|c| std::fs::metadata(&c.from).map_or(0, |m| m.len()));
        let paths = work.files.iter().map(|f| f.path.as_str());
        let texts = plan.texts.iter().map(|t| t.path.as_str());
        let paths: Vec<&str> =
            paths.chain(texts).chain(plan.copies.iter().map(|c| c.path.as_str())).collect();
        let manner = Manner { overwrite: options.overwrite, cache: options.cache };
        let needed = weights + copied.sum::<u64>();
        let mut transaction =
            Transaction::begin(&plan.target, manner, &work.identities(), &paths, needed)?;
        let mut written = 0;
        for copied in &plan.copies {
            written += transaction.take(copied, cancelled)?;
        }
        Ok(Self { work, transaction, open: None, next_file: 0, written })
    }

    fn append(&mut self, item: &Item, bytes: &[u8]) -> Result<Option<Settle>> {
        while self.open.as_ref().is_none_or(|(file, _)| *file != item.file) {
            self.next()?;
        }
        match &mut self.open {
            Some((_, sink)) => sink.append(bytes),
            None => Err(Error::internal("no file is open")),
        }
    }

    /// Close the open file, if any, and open the next with its header.
    fn next(&mut self) -> Result<()> {
        self.close()?;
        let file = self
            .work
            .files
            .get(self.next_file)
            .ok_or_else(|| Error::internal("no file is left"))?;
        let mut sink = self.transaction.create(&file.path)?;
        let _ = sink.append(&file.header)?;
        self.open = Some((self.next_file, sink));
        self.next_file += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some((index, sink)) = self.open.take() else { return Ok(()) };
        let file = &self.work.files[index];
        let expected = file.header.len() as u64 + file.data_len;
        if sink.written() != expected {
            let what = format!(
                "{}: {} bytes written, expected {expected}",
                sink.shown().display(),
                sink.written()
            );
            return Err(Error::internal(what));
        }
        self.written += expected;
        self.transaction.finished(&file.path, sink)
    }

    fn commit(mut self, plan: &Plan) -> Result<u64> {
        // Files without a single element never had an item.
        while self.next_file < self.work.files.len() {
            self.next()?;
        }
        self.close()?;
        self.transaction.commit(&plan.texts, &plan.copies)?;
        Ok(self.written)
    }
}

/// Compares a job's bytes with files that exist.
#[derive(Debug)]
pub struct Checker<'a> {
    work: &'a Work,
    files: Vec<LocalFile>,
    buffer: Vec<u8>,
}

impl<'a> Checker<'a> {
    fn open(plan: &Plan, work: &'a Work) -> Result<Self> {
        let mut checker = Self { work, files: Vec::new(), buffer: Vec::new() };
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
            let found = source.window(0, file.header.len(), &mut checker.buffer)?;
            if *found != file.header {
                let what = format!("{here}: its header differs from what the recipe gives");
                return Err(
                    Error::plan(what).hint("it was made from another recipe, version or inputs")
                );
            }
            drop(found);
            checker.files.push(source);
        }
        Ok(checker)
    }

    fn compare(&mut self, item: &Item, bytes: &[u8]) -> Result<()> {
        let (source, file) = (&self.files[item.file], &self.work.files[item.file]);
        let at = file.header.len() as u64 + item.at;
        let found = source.window(at, bytes.len(), &mut self.buffer)?;
        let Some(first) = found.iter().zip(bytes).position(|(a, b)| a != b) else { return Ok(()) };
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
}

fn unit_at(work: &Work, file: usize, at: u64) -> Option<&Unit> {
    let mut end = 0;
    work.units.iter().filter(|unit| unit.file == file).find(|unit| {
        end += crate::resolve::byte_len(unit.elements, unit.dtype).unwrap_or(0);
        at < end
    })
}
