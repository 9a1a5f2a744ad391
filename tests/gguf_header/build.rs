//! GGUF files byte by byte, right or wrong as a test wants them.

/// A value: its type's number and its bytes.
pub type Value = (u32, Vec<u8>);

/// A file in parts.
#[derive(Clone)]
pub struct File {
    pub magic: Vec<u8>,
    pub version: u32,
    /// Number of tensors and of key-values that it claims; what it has if none.
    pub claims: (Option<u64>, Option<u64>),
    pub pairs: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Entry>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

/// The entry of a tensor.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    /// Fastest first, as in the file.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub offset: u64,
}

pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

pub fn string(bytes: &[u8]) -> Value {
    (8, text(bytes))
}

pub fn uint32(value: u32) -> Value {
    (4, value.to_le_bytes().to_vec())
}

/// An array of values of a type, all their bytes one after the other.
pub fn array(kind: u32, count: u64, bytes: &[u8]) -> Value {
    (9, [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
}

pub fn entry(name: &str, dims: &[u64], kind: u32, offset: u64) -> Entry {
    Entry { name: name.into(), dims: dims.to_vec(), kind, offset }
}

impl File {
    /// With these tensors and so many bytes of data.
    pub fn of(tensors: Vec<Entry>, data: usize) -> Self {
        Self {
            magic: b"GGUF".to_vec(),
            version: 3,
            claims: (None, None),
            pairs: Vec::new(),
            tensors,
            alignment: 32,
            data: vec![0; data],
        }
    }

    pub fn pair(mut self, key: &str, value: Value) -> Self {
        self.pairs.push((key.into(), value));
        self
    }

    /// Everything before the data, without padding.
    pub fn head(&self) -> Vec<u8> {
        let mut bytes = self.magic.clone();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.claims.0.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.claims.1.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, (kind, value)) in &self.pairs {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for Entry { name, dims, kind, offset } in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.resize(bytes.len().next_multiple_of(self.alignment.max(1)), 0);
        bytes.extend(&self.data);
        bytes
    }
}
