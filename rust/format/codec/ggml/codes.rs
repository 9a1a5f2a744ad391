//! How codes of less than a byte share bytes.

#![allow(clippy::inline_always)]

/// The low half of each byte, then the high half of each.
#[inline(always)]
pub fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    let mut codes = [0; 32];
    for (i, byte) in bytes.iter().enumerate() {
        codes[i] = byte & 15;
        codes[i + 16] = byte >> 4;
    }
    codes
}

/// What [`nibbles`] reads, of codes below 16; of others the low four bits.
#[inline(always)]
pub fn put_nibbles(codes: &[u8; 32], bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().take(16).enumerate() {
        *byte = codes[i] & 15 | codes[i + 16] << 4;
    }
}

/// What [`fifths`] reads.
#[inline(always)]
pub fn put_fifths(codes: &[u8; 32], bytes: &mut [u8]) {
    let bit = |(i, code): (usize, &u8)| u32::from(code >> 4 & 1) << i;
    let bits = codes.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit);
    bytes[..4].copy_from_slice(&bits.to_le_bytes());
}

/// Bits as codes of 0 and 16: the fifth bit of each code, the first in the lowest bit.
#[inline(always)]
pub fn fifths(bytes: [u8; 4]) -> [u8; 32] {
    let bits = u32::from_le_bytes(bytes);
    let mut codes = [0; 32];
    for (i, code) in codes.iter_mut().enumerate() {
        *code = ((bits >> i) as u8 & 1) << 4;
    }
    codes
}

/// Part of a block, whose place is known.
#[inline(always)]
pub fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    // Never `None`: every call is of constants that fit the block.
    block.get(at..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; N])
}

/// A whole number, of at most 2^22 either way, as the lowest byte of its two's complement. As a cast
/// would have it, which instruction sets have no vector of.
#[inline(always)]
pub fn byte(whole: f32) -> u8 {
    (whole + 12_582_912.0).to_bits() as u8
}
