//! A whole header, whatever the container.

use std::collections::BTreeMap;

use super::flaw::{Checked, no_memory, twice};
use super::tensor::Tensor;

/// What stands around the tensors of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Tensors one after the other, behind JSON.
    Safetensors,
    /// Tensors at aligned places, some of blocks that share bytes.
    Gguf,
}

impl Container {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
        }
    }
}

/// The header of one file, checked: names are unique, and no tensor reaches into another or beyond the
/// file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is the header of.
    pub container: Container,
    /// Where the data section begins, in bytes from the beginning of the file.
    pub data_start: u64,
    /// The text map, in file order, keys unique.
    pub metadata: Vec<(String, String)>,
    /// All tensors in data order: by start, then end, then name.
    pub tensors: Vec<Tensor>,
    /// What the container says of those whose elements are blocks, by name; the tensors themselves are
    /// rows of bytes.
    pub blocks: BTreeMap<String, Blocks>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<u32>,
}

/// A tensor whose container names the format of its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The format, as its codec is called.
    pub format: &'static str,
    /// Dimensions in elements, slowest first.
    pub shape: Vec<u64>,
}

impl Header {
    /// Sorts the tensors and refuses two of the same name.
    pub(super) fn new(
        container: Container,
        data_start: u64,
        metadata: Vec<(String, String)>,
        mut tensors: Vec<Tensor>,
    ) -> Checked<Self> {
        tensors.sort_unstable_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        let by_name = index(&tensors)?;
        Ok(Self { container, data_start, metadata, tensors, blocks: BTreeMap::new(), by_name })
    }

    /// The tensor of that exact name, found in O(log n).
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let named = |&at: &u32| self.tensors[at as usize].name.as_str().cmp(name);
        let found = self.by_name.binary_search_by(named).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }
}

/// The order of the tensors by name; two of the same name are an error.
pub(super) fn index(tensors: &[Tensor]) -> Checked<Vec<u32>> {
    let name = |at: u32| tensors[at as usize].name.as_str();
    let mut order = Vec::new();
    order.try_reserve_exact(tensors.len()).map_err(|_| no_memory("the names"))?;
    order.extend(0..tensors.len() as u32);
    order.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
    match order.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => Err(twice("tensor", name(pair[0]))),
        None => Ok(order),
    }
}
