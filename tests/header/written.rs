//! A table over every header that is refused before it is written.

use submerge_core::dtype::Dtype;
use submerge_core::error::Kind;
use submerge_core::format::safetensors::{Tensor, encode};

use super::errors::well_formed;

#[test]
fn headers_that_are_not_written() {
    let tensor = |name: &str, shape: &[u64], start, end| Tensor {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: shape.to_vec(),
        start,
        end,
    };
    let note = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let a = || tensor("a", &[4], 0, 4);
    let long = note("a", &"x".repeat(16 << 20));
    let rows = [
        (
            vec![],
            vec![tensor("a", &[4], 0, 3)],
            "output tensor `a`: U8 of shape [4] does not fit its `data_offsets` 0..3, expected 4 bytes, got 3",
        ),
        (
            vec![],
            vec![tensor("a", &[1; 65], 0, 1)],
            "output tensor `a`: too many dimensions, expected at most 64, got 65",
        ),
        (
            vec![],
            vec![a(), a()],
            "output header: duplicate tensor `a`, expected unique names, got it twice",
        ),
        (
            vec![],
            vec![tensor("b", &[4], 4, 8), a()],
            "output header: tensor `b` leaves a hole after the header, expected its data to start at byte 0, got 4",
        ),
        (
            vec![],
            vec![tensor("__metadata__", &[4], 0, 4)],
            "output tensor `__metadata__`: reserved name, expected the name of a tensor, got `__metadata__`",
        ),
        (
            vec![note("a", "1"), note("a", "2")],
            vec![],
            "output header: duplicate metadata key `a`, expected unique names, got it twice",
        ),
        (
            vec![long],
            vec![],
            "output header: too much metadata, expected at most 16777216 bytes, got more",
        ),
    ];
    for (metadata, tensors, message) in rows {
        let error = encode(&metadata, &tensors).expect_err(message);
        assert!(matches!(error.kind(), Kind::Plan), "{error:?}");
        assert_eq!(error.message(), message);
        well_formed(&error, "");
    }
    let name = |i: u32| format!("{i:04096}");
    let tensors: Vec<_> = (0..24_500).map(|i| tensor(&name(i), &[0], 0, 0)).collect();
    let error = encode(&[], &tensors).expect_err("more than 100 MB");
    assert!(error.message().starts_with("output header: too large, expected at most 100000000"));
    well_formed(&error, "several files");
}
