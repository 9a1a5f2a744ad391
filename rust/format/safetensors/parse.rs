//! From the JSON text of a header to a header, checked.

use std::cmp::Ordering;
use std::path::Path;

use super::json;
use super::tensor::{check, tile};
use crate::error::{Result, quoted};
use crate::format::flaw::{DAMAGED, Flaw, INCOMPLETE};
use crate::format::header::{Container, Header};

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
    let (metadata, tensors) = json::read(text, path)?;
    let header = Header::new(Container::Safetensors, data_start, metadata, tensors)
        .map_err(|flaw| flaw.at(&place))?;
    for tensor in &header.tensors {
        check(tensor)
            .map_err(|flaw| flaw.at(&format!("{place}: tensor {}", quoted(&tensor.name))))?;
    }
    let end = tile(&header.tensors).map_err(|flaw| flaw.at(&place))?;
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
        Ordering::Equal => Ok(header),
    }
}
