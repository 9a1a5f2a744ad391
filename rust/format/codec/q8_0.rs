//! `Q8_0` of ggml: 32 signed bytes behind their scale, an F16.
//!
//! `value = q * d`, exact in f32. To write, `d = largest / 127` in f32, `q = round(x * (1 / d))` with
//! halves away from zero, and `d` is stored as F16: as ggml's `quantize_row_q8_0_ref` does, whose bytes
//! these are wherever `d` fits F16. A larger `d` is 65,504 and what is beyond 127 times it that, or the
//! block is NaN where overflow is NaN (ggml: an infinite scale). A block with an infinity or a NaN is
//! NaN, since no `q` can be one.

use super::contract::{Block, Codec, Run, Values};
use crate::dtype::{Float, Overflow};
use crate::simd::Isa;

/// Elements of a block.
const ELEMENTS: usize = 32;
/// Its bytes.
const BYTES: usize = 2 + ELEMENTS;

/// One block after the other.
#[derive(Clone, Copy, Debug)]
pub struct Q8;

impl Codec for Q8 {
    fn name(&self) -> String {
        "Q8_0".to_owned()
    }

    fn block(&self) -> Block {
        Block { elements: ELEMENTS, bytes: BYTES }
    }

    fn decode(&self, _: &Isa, run: Run, out: &mut [f32]) {
        let (blocks, _) = run.bytes.as_chunks::<BYTES>();
        let (out, _) = out.as_chunks_mut::<ELEMENTS>();
        for (block, out) in blocks.iter().zip(out) {
            let d = Float::F16.decode(u32::from(u16::from_le_bytes([block[0], block[1]])));
            for (value, q) in out.iter_mut().zip(&block[2..]) {
                *value = f32::from(q.cast_signed()) * d;
            }
        }
    }

    fn encode(&self, _: &Isa, values: Values, out: &mut [u8]) {
        let (blocks, _) = out.as_chunks_mut::<BYTES>();
        let (all, _) = values.values.as_chunks::<ELEMENTS>();
        for (of, block) in all.iter().zip(blocks) {
            encode_block(values.overflow, of, block);
        }
    }

    /// 127 times what F16 rounds to infinity.
    fn overflow(&self) -> f32 {
        127.0 * Float::F16.overflow()
    }
}

fn encode_block(overflow: Overflow, values: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    let largest = values.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let mut d = largest / 127.0;
    if d >= Float::F16.overflow() && d.is_finite() && overflow == Overflow::Saturate {
        d = Float::F16.largest();
    }
    let fits = d < Float::F16.overflow() && !values.iter().any(|x| x.is_nan());
    let stored = Float::F16.encode(overflow, if fits { d } else { f32::NAN }) as u16;
    block[..2].copy_from_slice(&stored.to_le_bytes());
    // Of zeros alone it is 0, and `1 / d` of what F16 rounds to 0 may be infinite.
    let inverse = if d == 0.0 { 0.0 } else { (1.0 / d).min(f32::MAX) };
    for (q, x) in block[2..].iter_mut().zip(values) {
        let rounded = (x * inverse).round().clamp(-127.0, 127.0);
        *q = (rounded as i8).cast_unsigned();
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::Sides;
    use super::*;

    fn there_and_back(overflow: Overflow, values: &[f32; ELEMENTS]) -> [f32; ELEMENTS] {
        let (mut bytes, mut back, sides) = ([0; BYTES], [0.0; ELEMENTS], Sides::default());
        Q8.encode(Isa::best(), Values { first: 0, values, sides, overflow }, &mut bytes);
        Q8.decode(Isa::best(), Run { first: 0, bytes: &bytes, sides }, &mut back);
        back
    }

    #[test]
    fn what_does_not_fit_is_the_largest_or_nan_and_never_lost() {
        let mut values = [1.0e6; ELEMENTS];
        let limit = Q8.overflow();
        values[3] = -limit.next_down();
        let back = there_and_back(Overflow::Nan, &values);
        assert_eq!(back[3].to_bits(), (-127.0_f32 * 65_504.0).to_bits());
        assert_eq!(back[0].to_bits(), (15.0_f32 * 65_504.0).to_bits());
        values[3] = -2.0 * limit;
        let back = there_and_back(Overflow::Saturate, &values);
        assert_eq!(back[3].to_bits(), (-127.0_f32 * 65_504.0).to_bits());
        assert_eq!(back[0].to_bits(), (15.0_f32 * 65_504.0).to_bits());
        values[3] = limit;
        assert!(there_and_back(Overflow::Nan, &values).iter().all(|x| x.is_nan()));
        for other in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[3] = other;
            for overflow in [Overflow::Nan, Overflow::Saturate] {
                assert!(there_and_back(overflow, &values).iter().all(|x| x.is_nan()), "{other}");
            }
        }
    }
}
