//! The scales and offsets of `Q4_K` and `Q5_K`: eight of each, of 6 bits, in 12 bytes.
//!
//! The first four of each have the low bits of a byte of their own; the last four have their low half
//! in the last four bytes and their two high bits above the first four.

#![allow(clippy::inline_always)]

/// The scales, and the offsets.
#[inline(always)]
pub fn unpack(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut offsets) = ([0; 8], [0; 8]);
    for i in 0..4 {
        let (scale, offset, both) = (bytes[i], bytes[i + 4], bytes[i + 8]);
        (scales[i], offsets[i]) = (scale & 63, offset & 63);
        scales[i + 4] = both & 15 | scale >> 6 << 4;
        offsets[i + 4] = both >> 4 | offset >> 6 << 4;
    }
    (scales, offsets)
}

/// What [`unpack`] reads.
#[inline(always)]
pub fn pack(scales: &[u8; 8], offsets: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..4 {
        bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = offsets[i] | offsets[i + 4] >> 4 << 6;
        bytes[i + 8] = scales[i + 4] & 15 | offsets[i + 4] << 4;
    }
    bytes
}
