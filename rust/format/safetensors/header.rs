//! A whole header, checked.

use std::cmp::Ordering;
use std::path::Path;

use super::json;
use super::tensor::{DAMAGED, Flaw, INCOMPLETE, Tensor, index, tile};
use crate::error::{Result, quoted};

/// The header of one file, checked: names are unique and the tensors tile the data exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the data section begins, in bytes from the beginning of the file.
    pub data_start: u64,
    /// The text map, in file order, keys unique.
    pub metadata: Vec<(String, String)>,
    /// All tensors in data order: by start, then end, then name.
    pub tensors: Vec<Tensor>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<u32>,
}

impl Header {
    /// The tensor of that exact name, found in O(log n).
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let named = |&at: &u32| self.tensors[at as usize].name.as_str().cmp(name);
        let found = self.by_name.binary_search_by(named).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }
}

/// Parse and check the JSON text of a header.
///
/// `data_start` and `data_len` are the place and size in bytes of the data section in the file at
/// `path`; the tensors must fill exactly `data_len` bytes.
pub fn parse(json: &[u8], data_start: u64, data_len: u64, path: &Path) -> Result<Header> {
    let place = path.display().to_string();
    let text = std::str::from_utf8(json).map_err(|e| {
        let at = e.valid_up_to();
        let what =
            format!("header is not text, expected UTF-8, got byte {:#04x} at {at}", json[at]);
        Flaw::new(what, DAMAGED).at(&place)
    })?;
    let (metadata, mut tensors) = json::read(text, path)?;
    tensors.sort_unstable_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
    let by_name = index(&tensors).map_err(|flaw| flaw.at(&place))?;
    for tensor in &tensors {
        tensor
            .check()
            .map_err(|flaw| flaw.at(&format!("{place}: tensor {}", quoted(&tensor.name))))?;
    }
    let end = tile(&tensors).map_err(|flaw| flaw.at(&place))?;
    let (expected, got) = (data_start.saturating_add(end), data_start.saturating_add(data_len));
    match end.cmp(&data_len) {
        Ordering::Greater => {
            let what = format!("file is cut short, expected {expected} bytes, got {got}");
            Err(Flaw::new(what, INCOMPLETE).at(&place))
        }
        Ordering::Less => {
            let what = format!("bytes after the last tensor, expected {expected} bytes, got {got}");
            Err(Flaw::new(what, DAMAGED).at(&place))
        }
        Ordering::Equal => Ok(Header { data_start, metadata, tensors, by_name }),
    }
}
