//! One file, two readers: ours and the `safetensors` crate. Also the body of the fuzz target.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use submerge_core::format::safetensors::{Header, encode, parse, read};
use submerge_core::io::source::Memory;

/// The longest header the `safetensors` crate takes.
const LIMIT: u64 = 100_000_000;

/// All reasons to refuse a file the `safetensors` crate takes; anything else is a defect.
const STRICTER: [&str; 11] = [
    // Readers disagree about these: the first counts, the last counts, or an error.
    "duplicate tensor",
    "duplicate metadata key",
    "unknown field",
    // Not what the format's text allows, taken by accident of how the crate is written.
    "header: does not begin with an object",
    "expected an object with `dtype`, `shape` and `data_offsets`, got an array",
    "`dtype`: wrong type near byte",
    "shape overflows",
    // Our limits.
    "name too long",
    "`shape`: too many numbers, expected at most 64",
    "too many tensors",
    "too much metadata",
];

/// Read `bytes` with both and panic unless they agree; whether the file was accepted.
pub fn check(bytes: &[u8]) -> bool {
    let ours = read(&Memory::new("fuzz", "", bytes.into()), LIMIT);
    match (ours, SafeTensors::read_metadata(bytes)) {
        (Ok(ours), Ok((length, theirs))) => {
            assert_eq!(ours.data_start, 8 + length as u64);
            same_content(&ours, &theirs);
            survives_rewriting(&ours);
            true
        }
        (Ok(ours), Err(error)) => panic!("only the crate refuses {ours:?}: {error}"),
        (Err(error), Ok(_)) => {
            let listed = STRICTER.iter().any(|reason| error.message().contains(reason));
            assert!(listed, "only we refuse, for no listed reason: {error}");
            false
        }
        (Err(error), Err(_)) => {
            assert!(error.advice().is_some(), "no hint: {error}");
            assert!(!error.message().contains(char::is_control), "not escaped: {error:?}");
            false
        }
    }
}

fn same_content(ours: &Header, theirs: &safetensors::tensor::Metadata) {
    let tensors = theirs.tensors();
    assert_eq!(ours.tensors.len(), tensors.len());
    for tensor in &ours.tensors {
        let info = tensors[&tensor.name];
        let shape: Vec<u64> = info.shape.iter().map(|&n| n as u64).collect();
        let (start, end) = info.data_offsets;
        assert_eq!(tensor.dtype.name(), info.dtype.to_string());
        assert_eq!(tensor.shape, shape);
        assert_eq!((tensor.start, tensor.end), (start as u64, end as u64));
        assert_eq!(ours.tensor(&tensor.name), Some(tensor));
    }
    let sorted: BTreeMap<_, _> = ours.metadata.iter().cloned().collect();
    let expected = theirs.metadata().clone().unwrap_or_default().into_iter().collect();
    assert_eq!(sorted, expected);
}

/// What we accept we can write, and read back as the same.
fn survives_rewriting(header: &Header) {
    let bytes = encode(&header.metadata, &header.tensors).expect("an accepted header");
    let data_start = bytes.len() as u64;
    assert_eq!(data_start % 8, 0);
    let data = header.tensors.last().map_or(0, |t| t.end);
    let again = parse(&bytes[8..], data_start, data, Path::new("again")).expect("what we wrote");
    assert_eq!(again.tensors, header.tensors);
    let mut sorted = header.metadata.clone();
    sorted.sort();
    assert_eq!(again.metadata, sorted);
}
