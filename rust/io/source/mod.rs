//! Where bytes come from: a local file, memory, or whoever answers ranges (a server, an archive).
//!
//! A source is read in windows. A local file may be mapped (prefaulted, used, released: no copy, and
//! a page that cannot be read is an error); everything else is read into a buffer. Both give the same
//! bytes, so which one is used changes nothing.
//!
//! # How to add one
//! Implement [`Source`] in a file of this folder. What it promises to be ([`Identity`]) is what the
//! plan names it by; a plan's new kind of source is one line in `plan.rs`.

mod contract;
mod file;
mod identity;
mod memory;
mod ranges;

pub use contract::{ReadMode, Source, Window};
pub use file::{LocalFile, read_exact_at};
pub use identity::{FileIdentity, Identity, Version};
pub use memory::Memory;
pub use ranges::Ranges;
