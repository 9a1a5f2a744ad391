//! Reading a header from its beginning to its end, without knowing how long it is.

use crate::error::{Error, Result, quoted};
use crate::format::flaw::{DAMAGED, Flaw, INCOMPLETE, TRUSTED};
use crate::io::source::Source;
use crate::memory;

/// Bytes that are read at a time.
const CHUNK: u64 = 128 << 10;

/// Where the reader stands, for messages.
#[derive(Debug)]
pub(super) enum Here {
    /// In front of everything that has a name.
    Header,
    /// At the key or the tensor that is the n-th, whose name is not known yet.
    Nth(&'static str, u64),
    /// At a key.
    Key(String),
    /// At a tensor.
    Tensor(String),
}

/// The bytes of a header in order, each looked at once.
pub(super) struct Cursor<'a> {
    source: &'a dyn Source,
    limit: u64,
    /// Where the buffer begins in the file.
    base: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are behind.
    used: usize,
    pub(super) here: Here,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn Source, limit: u64) -> Self {
        Self { source, limit, base: 0, buffer: Vec::new(), used: 0, here: Here::Header }
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.source.identity().size()
    }

    /// Bytes that are behind.
    pub(super) fn position(&self) -> u64 {
        self.base + self.used as u64
    }

    /// Bytes that may still come.
    pub(super) fn left(&self) -> u64 {
        self.size() - self.position()
    }

    /// The error of what is wrong here.
    #[cold]
    pub(super) fn wrong(&self, flaw: Flaw) -> Error {
        let path = self.source.path().display();
        flaw.at(&match &self.here {
            Here::Header => format!("{path}: header"),
            Here::Nth(what, index) => format!("{path}: {what} number {index}"),
            Here::Key(name) => format!("{path}: key {}", quoted(name)),
            Here::Tensor(name) => format!("{path}: tensor {}", quoted(name)),
        })
    }

    /// The error of a header that a faulty tool wrote.
    #[cold]
    pub(super) fn damaged(&self, what: String) -> Error {
        self.wrong(Flaw::new(what, DAMAGED))
    }

    /// Where `bytes` more end, proved to lie inside the file and within the limit.
    fn end(&self, bytes: u64) -> Result<u64> {
        let end = self.position().saturating_add(bytes);
        if end > self.size() {
            let size = self.size();
            let what = format!(
                "reaches beyond the end of the file, expected at most {size} bytes, got {end}"
            );
            return Err(self.wrong(Flaw::new(what, INCOMPLETE)));
        }
        if end > self.limit {
            let what = format!("header too large, expected at most {} bytes, got more", self.limit);
            return Err(self.wrong(Flaw::new(what, TRUSTED)));
        }
        Ok(end)
    }

    /// Go on without looking.
    pub(super) fn skip(&mut self, bytes: u64) -> Result<()> {
        let end = self.end(bytes)?;
        match usize::try_from(end - self.base) {
            Ok(used) if used <= self.buffer.len() => self.used = used,
            _ => {
                self.buffer.clear();
                (self.base, self.used) = (end, 0);
            }
        }
        Ok(())
    }

    /// The next `bytes`, of which there are not many.
    fn next(&mut self, bytes: u64) -> Result<&[u8]> {
        let end = self.end(bytes)?;
        if end > self.base + self.buffer.len() as u64 {
            self.base = self.position();
            self.used = 0;
            let len = bytes.max(CHUNK).min(self.size() - self.base);
            memory::resize(&mut self.buffer, usize::try_from(len).unwrap_or(usize::MAX))?;
            self.source.read(self.base, &mut self.buffer)?;
        }
        let begun = self.used;
        self.used = (end - self.base) as usize;
        Ok(&self.buffer[begun..self.used])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.next(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text of a length that was read before.
    pub(super) fn text(&mut self, len: u64) -> Result<String> {
        let bytes = self.next(len)?;
        let (at, byte) = match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(text.to_owned()),
            Err(e) => (e.valid_up_to(), bytes[e.valid_up_to()]),
        };
        let what = format!("bytes that are no text, expected UTF-8, got byte {byte:#04x} at {at}");
        Err(self.damaged(what))
    }
}
