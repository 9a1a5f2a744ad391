//! NVFP4: blocks of 16 numbers of 4 bits under an `F8_E4M3`, and one F32 for all.
//!
//! `value = code * (scale of all * scale of the block)`, both products in f32; a code is one of 0, 0.5, 1,
//! 1.5, 2, 3, 4, 6 and a sign. To write, the scale of all is `largest / 2688` (448 times 6), that of a block
//! `largest of it / 6 / (scale of all)`, to the nearest FP8, and each code is the value divided by the product of
//! the two, to the nearest, ties to even. A block whose scale is 0, and zeros alone, are zeros under a scale of
//! all of 1 (comfy-kitchen: NaN). No code is a NaN: a block that holds what is no finite number has the scale NaN.
//!
//! `ComfyUI` has the first of two elements in the high bits and the scales in tiles ([`super::tiles`]); the others
//! (diffusers' BFL reader, torchao, `ModelOpt`) have it in the low bits and the scales in rows. To write are the
//! bytes of comfy-kitchen 0.2.40.

#![allow(clippy::inline_always)]

use super::contract::{Block, Codec, Need, Run, Side, Sides, Values};
use super::tiles::{Bytes, Layout};
use crate::dtype::{Float, Overflow, narrow};
use crate::simd::{BLOCK, Body, Isa};

/// Elements of a block.
const ELEMENTS: usize = 16;
/// Blocks that are coded together.
const BLOCKS: usize = BLOCK / ELEMENTS;
/// The largest code.
const LARGEST: f32 = 6.0;
/// The largest scale of a block.
const LARGEST_SCALE: f32 = 448.0;

/// One block after the other, their scales, and that of all.
#[derive(Clone, Copy, Debug)]
pub struct Nvfp4 {
    scales: Bytes,
    /// Where the first of two elements is.
    high_first: bool,
    sides: [Side; 2],
}

impl Nvfp4 {
    /// With so many elements in a row: as `ComfyUI` has it in tiles, as the others in rows.
    #[must_use]
    pub fn new(layout: Layout, columns: u64) -> Self {
        let scales = Bytes::new(layout, columns / ELEMENTS as u64);
        let sides = [scales.side(), Side::Whole { bytes: size_of::<f32>() }];
        Self { scales, high_first: layout == Layout::Tiles, sides }
    }

    /// What the codes of blocks from `first` on are multiplied by.
    fn factors(&self, sides: Sides, first: u64, blocks: usize) -> [f32; BLOCKS] {
        let mut bytes = [0; BLOCKS];
        self.scales.read(sides, 0, first, &mut bytes[..blocks]);
        let of_all = Float::F32.read(sides.entry(self.sides[1], 1, first));
        bytes.map(|byte| of_all * Float::F8E4M3.decode(byte.into()))
    }
}

impl Codec for Nvfp4 {
    fn name(&self) -> String {
        (if self.high_first { "NVFP4" } else { "NVFP4 in rows" }).to_owned()
    }

    fn block(&self) -> Block {
        Block { elements: ELEMENTS, bytes: ELEMENTS / 2 }
    }

    fn sides(&self) -> &[Side] {
        &self.sides
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        let pieces = run.bytes.chunks(BLOCK / 2).zip(out.chunks_mut(BLOCK));
        for (first, (bytes, out)) in (run.first..).step_by(BLOCKS).zip(pieces) {
            let factors = &self.factors(run.sides, first, out.len() / ELEMENTS);
            isa.run(Decode { high_first: self.high_first, bytes, factors, out });
        }
    }

    fn needs(&self) -> Need {
        Need::Every { blocks: 1 }
    }

    fn observe(&self, isa: &Isa, _: u64, values: &[f32], seen: &mut [f32]) {
        isa.run(Observe { values, seen });
    }

    fn fill_sides(&self, largest: &[f32], sides: &mut [Vec<u8>]) {
        let finite = largest.iter().filter(|largest| largest.is_finite());
        let most = finite.fold(0.0_f32, |most, largest| most.max(*largest));
        let of_all = most / (LARGEST_SCALE * LARGEST);
        let of_all = if of_all == 0.0 { 1.0 } else { of_all };
        sides[1].copy_from_slice(&of_all.to_le_bytes());
        let scales = largest.iter().map(|largest| {
            let scale = (largest / LARGEST / of_all).min(LARGEST_SCALE);
            let scale = if largest.is_finite() { scale } else { f32::NAN };
            Float::F8E4M3.encode(Overflow::Saturate, scale) as u8
        });
        self.scales.fill(scales, &mut sides[0]);
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        let Values { first, values, sides, .. } = values;
        let pieces = values.chunks(BLOCK).zip(out.chunks_mut(BLOCK / 2));
        for (first, (values, out)) in (first..).step_by(BLOCKS).zip(pieces) {
            let factors = &self.factors(sides, first, values.len() / ELEMENTS);
            isa.run(Encode { high_first: self.high_first, values, factors, out });
        }
    }

    /// A scale follows its largest value; only what is infinite does not fit.
    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}

struct Decode<'a> {
    high_first: bool,
    bytes: &'a [u8],
    factors: &'a [f32],
    out: &'a mut [f32],
}

impl Body for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [first, second] = if self.high_first { [4, 0] } else { [0, 4] };
        let (blocks, _) = self.bytes.as_chunks::<{ ELEMENTS / 2 }>();
        let (out, _) = self.out.as_chunks_mut::<ELEMENTS>();
        for ((bytes, out), factor) in blocks.iter().zip(out).zip(self.factors) {
            let (pairs, _) = out.as_chunks_mut::<2>();
            for (byte, pair) in bytes.iter().zip(pairs) {
                let byte = u32::from(*byte);
                *pair = [value(byte >> first & 0xF) * factor, value(byte >> second & 0xF) * factor];
            }
        }
    }
}

/// What a code of 4 bits stands for.
#[inline(always)]
fn value(code: u32) -> f32 {
    let (exponent, fraction, sign) = (code >> 1 & 3, code & 1, code >> 3);
    let normal = (exponent + 126) << 23 | fraction << 22;
    let small = if fraction == 0 { 0 } else { 0.5_f32.to_bits() };
    f32::from_bits((if exponent == 0 { small } else { normal }) | sign << 31)
}

struct Encode<'a> {
    high_first: bool,
    values: &'a [f32],
    factors: &'a [f32],
    out: &'a mut [u8],
}

impl Body for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [first, second] = if self.high_first { [4, 0] } else { [0, 4] };
        let (blocks, _) = self.values.as_chunks::<ELEMENTS>();
        let (out, _) = self.out.as_chunks_mut::<{ ELEMENTS / 2 }>();
        for ((values, out), factor) in blocks.iter().zip(out).zip(self.factors) {
            let mut codes = [0; ELEMENTS];
            if *factor != 0.0 {
                codes.iter_mut().zip(values).for_each(|(code, x)| *code = nearest(x / factor));
            }
            let (pairs, _) = codes.as_chunks::<2>();
            for (byte, pair) in out.iter_mut().zip(pairs) {
                *byte = (pair[0] << first | pair[1] << second) as u8;
            }
        }
    }
}

/// The nearest code, ties to even; of a NaN some code, the same on every machine.
#[inline(always)]
fn nearest(value: f32) -> u32 {
    let bits = if value.is_nan() { 0 } else { value.to_bits() };
    let magnitude = (bits & 0x7FFF_FFFF).min(LARGEST.to_bits());
    narrow::<1, 1>(magnitude) | bits >> 31 << 3
}

/// Keeps the largest magnitude of each block; infinite where a value is no finite number.
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
            let largest = block.iter().map(|x| x.to_bits() & 0x7FFF_FFFF).fold(0, u32::max);
            *seen = f32::from_bits(largest.min(f32::INFINITY.to_bits()).max(seen.to_bits()));
        }
    }
}
