//! MXFP8: blocks of 32 `F8_E4M3` under a power of two.
//!
//! `value = code * 2^(e - 127)`; e = 255 is NaN. To write, `2^(e - 127)` is the smallest power of two that
//! is not below `largest / 448` of the block's finite values, and each code is the value divided by it, to
//! the nearest; a block of zeros has e = 0. A NaN stays one; an infinity is as overflow says. These are the
//! bytes of comfy-kitchen 0.2.40, but where its logarithm in f32 misses a power of two by a few last bits,
//! which makes its scale too small by half and cuts the largest value; and where e = 0, which it reads as
//! 0. The scales stand in tiles ([`super::tiles`]). Source: OCP Microscaling Formats 1.0.

#![allow(clippy::inline_always)]

use super::codes::{Code, named};
use super::contract::{Block, Codec, Need, Run, Side, Values};
use super::tiles::{Bytes, Layout};
use crate::dtype::Float;
use crate::simd::{BLOCK, Body, Isa};

/// Elements of a block.
const ELEMENTS: usize = 32;
/// Blocks that are coded together.
const BLOCKS: usize = BLOCK / ELEMENTS;

/// One block after the other, and the exponents of their scales.
#[derive(Clone, Copy, Debug)]
pub struct Mxfp8 {
    seed: Option<u64>,
    exponents: Bytes,
    sides: [Side; 1],
}

impl Mxfp8 {
    /// With so many elements in a row; `seed` is the key of the noise that rounds, if any does.
    #[must_use]
    pub fn new(columns: u64, seed: Option<u64>) -> Self {
        let exponents = Bytes::new(Layout::Tiles, columns / ELEMENTS as u64);
        Self { seed, exponents, sides: [exponents.side()] }
    }
}

/// The exponent of the smallest power of two that is not below `largest / 448`.
fn exponent(largest: f32) -> u8 {
    let bits = (largest / 448.0).to_bits();
    // A magnitude of an exponent's width above a power of two rounds up; subnormals and 0 are below 2^-126.
    let up = bits.saturating_add(0x007F_FFFF) >> 23;
    let smallest = if bits <= 0x0040_0000 { 0 } else { up };
    smallest.min(254) as u8
}

/// `2^(e - 127)`.
#[inline(always)]
fn power(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(e) << 23),
    }
}

impl Codec for Mxfp8 {
    fn name(&self) -> String {
        named("MXFP8".to_owned(), self.seed)
    }

    fn block(&self) -> Block {
        Block { elements: ELEMENTS, bytes: ELEMENTS }
    }

    fn sides(&self) -> &[Side] {
        &self.sides
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        isa.decode(Float::F8E4M3, run.bytes, out);
        let mut exponents = [0; BLOCKS];
        for (first, out) in (run.first..).step_by(BLOCKS).zip(out.chunks_mut(BLOCK)) {
            let exponents = &mut exponents[..out.len() / ELEMENTS];
            self.exponents.read(run.sides, 0, first, exponents);
            let factors = factors(exponents, power);
            isa.run(Scale { factors: &factors, values: out });
        }
    }

    fn needs(&self) -> Need {
        Need::Every { blocks: 1 }
    }

    fn observe(&self, isa: &Isa, _: u64, values: &[f32], seen: &mut [f32]) {
        isa.run(Observe { values, seen });
    }

    fn fill_sides(&self, largest: &[f32], sides: &mut [Vec<u8>]) {
        self.exponents.fill(largest.iter().map(|largest| exponent(*largest)), &mut sides[0]);
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        let Values { first, values, sides, overflow } = values;
        let (mut exponents, mut quotients) = ([0; BLOCKS], [0.0; BLOCK]);
        let pieces = values.chunks(BLOCK).zip(out.chunks_mut(BLOCK));
        for (first, (values, out)) in (first..).step_by(BLOCKS).zip(pieces) {
            let exponents = &mut exponents[..values.len() / ELEMENTS];
            self.exponents.read(sides, 0, first, exponents);
            // The inverse of a power of two is one: exact.
            let factors = factors(exponents, |e| power(254 - e.min(254)));
            let quotients = &mut quotients[..values.len()];
            quotients.copy_from_slice(values);
            isa.run(Scale { factors: &factors, values: quotients });
            if let Some(key) = self.seed {
                let place = (key, first * ELEMENTS as u64);
                let code = Code::Float(Float::F8E4M3);
                code.encode_at_random(isa, place, overflow, quotients, out);
            } else {
                isa.encode(Float::F8E4M3, overflow, quotients, out);
            }
        }
    }

    /// A scale follows its largest value, as far as powers of two reach: only what is infinite does not fit.
    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}

fn factors(exponents: &[u8], of: impl Fn(u8) -> f32) -> [f32; BLOCKS] {
    let mut factors = [0.0; BLOCKS];
    factors.iter_mut().zip(exponents).for_each(|(factor, e)| *factor = of(*e));
    factors
}

struct Scale<'a> {
    factors: &'a [f32],
    values: &'a mut [f32],
}

impl Body for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (blocks, _) = self.values.as_chunks_mut::<ELEMENTS>();
        for (block, factor) in blocks.iter_mut().zip(self.factors) {
            for value in block.iter_mut() {
                *value *= factor;
            }
        }
    }
}

/// Keeps the largest finite magnitude of each block.
struct Observe<'a> {
    values: &'a [f32],
    seen: &'a mut [f32],
}

impl Body for Observe<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (blocks, _) = self.values.as_chunks::<ELEMENTS>();
        for (block, seen) in blocks.iter().zip(self.seen) {
            let magnitude = |x: &f32| x.to_bits() & 0x7FFF_FFFF;
            let finite = |bits: u32| if bits < f32::INFINITY.to_bits() { bits } else { 0 };
            let largest = block.iter().map(|x| finite(magnitude(x))).fold(0, u32::max);
            *seen = f32::from_bits(largest.max(seen.to_bits()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_the_smallest_power_that_holds_the_largest() {
        for e in 1..=254_u8 {
            let largest = 448.0 * f64::from(power(e));
            if largest > f64::from(f32::MAX) {
                continue;
            }
            let largest = largest as f32;
            assert_eq!(exponent(largest), e, "{largest:e}");
            assert_eq!(exponent(largest.next_down()), e, "{largest:e}");
            assert_eq!(exponent(largest * 1.000_001), e + 1, "{largest:e}");
        }
        assert_eq!([0.0, f32::from_bits(1), 448.0 * power(0)].map(exponent), [0; 3]);
        assert_eq!(exponent(f32::MAX), 247);
    }
}
