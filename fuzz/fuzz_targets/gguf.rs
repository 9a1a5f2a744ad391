//! Any bytes after the magic of a GGUF: the reader must not panic, and its answer must be sound.
#![no_main]

#[path = "../../tests/gguf_header/sound.rs"]
mod sound;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    sound::check(&[b"GGUF", input].concat());
});
