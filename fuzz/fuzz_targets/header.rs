//! Any bytes as a file: the header reader must not panic, must agree with the `safetensors` crate
//! up to the listed stricter cases, and what it accepts must survive being written again.
//!
//! The input is the JSON text, with the sizes around it put right, or, when its first byte is odd,
//! a whole file.
#![no_main]

#[path = "../../tests/header/agree.rs"]
mod agree;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, text)) = input.split_first() else { return };
    let bytes = if choice % 2 == 1 {
        text.to_vec()
    } else {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len() + usize::from(choice / 2), 0);
        bytes
    };
    agree::check(&bytes);
});
