//! What is wrong with a header, before it is known where it stands, and what no header may exceed.

use crate::error::{Error, quoted};

/// More tensors than any model has; a header of 100 MB could otherwise declare two million.
pub(super) const MAX_TENSORS: usize = 1_000_000;
/// Bytes of one tensor name.
pub(super) const MAX_NAME: usize = 4096;
/// Bytes of all metadata keys and values together, each entry counted with its bookkeeping.
pub(super) const MAX_METADATA: usize = 16 << 20;

pub(super) const DAMAGED: &str =
    "the file is damaged or was written by a faulty tool; download or convert it again";
pub(super) const INCOMPLETE: &str =
    "the download or copy is probably incomplete; fetch the file again";
pub(super) const TRUSTED: &str = "if you trust the file, raise `max_header_bytes`";

/// The outcome of a check that does not know where it is made.
pub(super) type Checked<T> = std::result::Result<T, Flaw>;

/// What is wrong and what to do about it.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) what: String,
    pub(super) hint: &'static str,
}

impl Flaw {
    pub(super) fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint }
    }

    #[cold]
    pub(super) fn at(self, place: &str) -> Error {
        Error::checkpoint(format!("{place}: {}", self.what)).hint(self.hint)
    }
}

/// Count one metadata entry towards the limit: its text and about what it costs to hold.
pub(super) fn charge(
    total: &mut usize,
    (key, value): (&str, &str),
    hint: &'static str,
) -> Checked<()> {
    *total += key.len() + value.len() + size_of::<(String, String)>();
    if *total > MAX_METADATA {
        let what = format!("too much metadata, expected at most {MAX_METADATA} bytes, got more");
        return Err(Flaw::new(what, hint));
    }
    Ok(())
}

pub(super) fn name_too_long(length: usize) -> Flaw {
    let what = format!("name too long, expected at most {MAX_NAME} bytes, got {length}");
    Flaw::new(what, DAMAGED)
}

pub(super) fn twice(kind: &str, name: &str) -> Flaw {
    Flaw::new(
        format!("duplicate {kind} {}, expected unique names, got it twice", quoted(name)),
        "readers disagree on which one counts, so the file is refused; write it again with unique names",
    )
}

#[cold]
pub(super) fn no_memory(what: &str) -> Flaw {
    let what = format!("out of memory, expected room for {what}, got none");
    Flaw::new(what, "lower `max_header_bytes` or free memory")
}
