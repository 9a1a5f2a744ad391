//! Blocks that hold all they need, one after the other, as a codec.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use std::fmt::Debug;
use std::hint::black_box;
use std::marker::PhantomData;

use super::super::contract::{Block, Codec, Run, Values};
use crate::dtype::{Float, Overflow};
use crate::simd::{Body, Isa};

/// What a block of `N` elements in `BYTES` bytes means. All of it must be `#[inline(always)]`: it is
/// compiled for every instruction set.
pub trait Format<const N: usize, const BYTES: usize>: Debug + Send + Sync {
    /// As ggml spells it.
    const NAME: &'static str;

    /// The smallest magnitude that does not fit; none if blocks are only read.
    const OVERFLOW: Option<f32> = None;

    /// Whether [`Numbers::low`] and [`Numbers::high`] are wanted.
    const RANGED: bool = false;

    /// Where its first scale stands, an F16.
    const SCALE: usize = 0;

    /// The numbers of a block, exact or rounded once; `scale` is its first.
    fn decode(block: &[u8; BYTES], scale: f32, out: &mut [f32; N]);

    /// Rounds numbers to blocks; whether the scales of each fit F16. One that does not is written as the
    /// largest that does. What comes of numbers that are not finite is not used.
    #[inline(always)]
    fn encode(from: &Numbers<N>, blocks: &mut Each<[u8; BYTES]>) -> Each<bool> {
        let _ = (from, blocks);
        [false; TOGETHER]
    }
}

/// Blocks that are written at a time: what must be done in order within a block of 256 is done in all of
/// them at once.
pub const TOGETHER: usize = 4;

/// One of each block.
pub type Each<T = f32> = [T; TOGETHER];

/// The numbers of some blocks.
pub struct Numbers<'a, const N: usize> {
    pub values: &'a Each<[f32; N]>,
    /// The largest magnitude of each block; infinite or NaN if any is.
    pub largest: Each,
    /// The smallest number of each block and the largest, if wanted; zeros may have either sign.
    pub low: Each,
    pub high: Each,
}

impl<'a, const N: usize> Numbers<'a, N> {
    #[inline(always)]
    fn of(values: &'a Each<[f32; N]>, ranged: bool) -> Self {
        let mut of = Self { values, largest: [0.0; 4], low: [0.0; 4], high: [0.0; 4] };
        // Each by itself: else the compiler takes them beside each other, element by element.
        for (largest, values) in of.largest.iter_mut().zip(values) {
            *largest = magnitude(black_box(values));
        }
        if ranged {
            for ((low, high), values) in of.low.iter_mut().zip(&mut of.high).zip(values) {
                [*low, *high] = range(black_box(values));
            }
        }
        of
    }
}

/// One block after the other.
#[derive(Debug)]
pub struct Blocks<F, const N: usize, const BYTES: usize>(PhantomData<F>);

impl<F, const N: usize, const BYTES: usize> Default for Blocks<F, N, BYTES> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<F: Format<N, BYTES>, const N: usize, const BYTES: usize> Codec for Blocks<F, N, BYTES> {
    fn name(&self) -> String {
        F::NAME.to_owned()
    }

    fn block(&self) -> Block {
        Block { elements: N, bytes: BYTES }
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        let (blocks, _) = run.bytes.as_chunks();
        let (out, _) = out.as_chunks_mut();
        isa.run(Decode::<F, N, BYTES> { blocks, out, format: PhantomData });
    }

    fn writes(&self) -> bool {
        F::OVERFLOW.is_some()
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        let (blocks, _) = out.as_chunks_mut();
        let (of, _) = values.values.as_chunks();
        isa.run(Encode::<F, N, BYTES> {
            values: of,
            overflow: values.overflow,
            blocks,
            format: PhantomData,
        });
    }

    fn overflow(&self) -> f32 {
        F::OVERFLOW.unwrap_or(f32::INFINITY)
    }
}

struct Decode<'a, F, const N: usize, const BYTES: usize> {
    blocks: &'a [[u8; BYTES]],
    out: &'a mut [[f32; N]],
    format: PhantomData<F>,
}

impl<F: Format<N, BYTES>, const N: usize, const BYTES: usize> Body for Decode<'_, F, N, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // Scales of many at once: that, too, in vectors.
        const SCALES: usize = 32;
        for (blocks, out) in self.blocks.chunks(SCALES).zip(self.out.chunks_mut(SCALES)) {
            let (mut bits, mut scales) = ([0; SCALES], [0.0; SCALES]);
            for (bits, block) in bits.iter_mut().zip(blocks) {
                *bits = u16::from_le_bytes([block[F::SCALE], block[F::SCALE + 1]]);
            }
            for (scale, bits) in scales.iter_mut().zip(bits) {
                *scale = Float::F16.decode(u32::from(bits));
            }
            for ((block, scale), out) in blocks.iter().zip(scales).zip(out) {
                F::decode(block, scale, out);
            }
        }
    }
}

struct Encode<'a, F, const N: usize, const BYTES: usize> {
    values: &'a [[f32; N]],
    overflow: Overflow,
    blocks: &'a mut [[u8; BYTES]],
    format: PhantomData<F>,
}

impl<F: Format<N, BYTES>, const N: usize, const BYTES: usize> Body for Encode<'_, F, N, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (values, few) = self.values.as_chunks();
        let (blocks, last) = self.blocks.as_chunks_mut();
        for (values, blocks) in values.iter().zip(blocks) {
            encode::<F, N, BYTES>(values, self.overflow, blocks);
        }
        if !few.is_empty() {
            let (mut padded, mut room) = ([[0.0; N]; TOGETHER], [[0; BYTES]; TOGETHER]);
            padded[..few.len()].copy_from_slice(few);
            encode::<F, N, BYTES>(&padded, self.overflow, &mut room);
            last.copy_from_slice(&room[..last.len()]);
        }
    }
}

#[inline(always)]
fn encode<F: Format<N, BYTES>, const N: usize, const BYTES: usize>(
    values: &Each<[f32; N]>,
    overflow: Overflow,
    blocks: &mut Each<[u8; BYTES]>,
) {
    let from = Numbers::of(values, F::RANGED);
    let fits = F::encode(&from, blocks);
    for ((block, fits), largest) in blocks.iter_mut().zip(fits).zip(from.largest) {
        let fits = fits || overflow == Overflow::Saturate;
        if !(fits && largest < f32::INFINITY) {
            block.fill(0);
            let nan = (Float::F16.nan() as u16).to_le_bytes();
            block[F::SCALE..F::SCALE + 2].copy_from_slice(&nan);
        }
    }
}

/// What is beyond it counts as that: no block holds it, and its squares would not fit f32.
pub const HUGE: f32 = 1_073_741_824.0;

#[inline(always)]
fn magnitude<const N: usize>(values: &[f32; N]) -> f32 {
    // The bits of magnitudes are in their order, and a NaN is above all.
    let mut lanes = [0; 8];
    for row in values.as_chunks::<8>().0 {
        for (lane, x) in lanes.iter_mut().zip(row) {
            *lane = (x.to_bits() & 0x7FFF_FFFF).max(*lane);
        }
    }
    let mut largest = 0;
    for lane in lanes {
        largest = lane.max(largest);
    }
    f32::from_bits(largest)
}

#[inline(always)]
fn range<const N: usize>(values: &[f32; N]) -> [f32; 2] {
    let (rows, _) = values.as_chunks::<8>();
    let (mut low, mut high) = (rows[0], rows[0]);
    for row in &rows[1..] {
        for lane in 0..8 {
            low[lane] = if row[lane] < low[lane] { row[lane] } else { low[lane] };
        }
        for lane in 0..8 {
            high[lane] = if row[lane] > high[lane] { row[lane] } else { high[lane] };
        }
    }
    let (mut smallest, mut largest) = (low[0], high[0]);
    for lane in 1..8 {
        smallest = if low[lane] < smallest { low[lane] } else { smallest };
        largest = if high[lane] > largest { high[lane] } else { largest };
    }
    [smallest, largest]
}

/// The F16 at a place of a block.
#[inline(always)]
pub fn half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    Float::F16.decode(u32::from(u16::from_le_bytes([block[at], block[at + 1]])))
}

/// A scale as it will be read.
#[inline(always)]
pub fn stored(scale: f32) -> f32 {
    Float::F16.decode(Float::F16.encode(Overflow::Nan, saturated(scale)))
}

/// The scale, or the largest of F16 with its sign if it is beyond that.
#[inline(always)]
pub fn saturated(scale: f32) -> f32 {
    let largest = Float::F16.largest();
    if scale.abs() < Float::F16.overflow() { scale } else { largest.copysign(scale) }
}

/// Writes a scale of each block as F16: whether it fits; if not it is the largest, of its sign.
#[inline(always)]
pub fn put_halves<const BYTES: usize>(
    blocks: &mut Each<[u8; BYTES]>,
    at: usize,
    scales: &Each,
) -> Each<bool> {
    let (mut bits, mut fits) = ([0; TOGETHER], [false; TOGETHER]);
    for ((bits, fits), scale) in bits.iter_mut().zip(&mut fits).zip(scales) {
        *bits = Float::F16.encode(Overflow::Nan, saturated(*scale));
        *fits = scale.abs() < Float::F16.overflow();
    }
    for (block, bits) in blocks.iter_mut().zip(bits) {
        block[at..at + 2].copy_from_slice(&(bits as u16).to_le_bytes());
    }
    fits
}

/// [`put_halves`] of two scales, the second behind the first.
#[inline(always)]
pub fn put_pairs<const BYTES: usize>(
    blocks: &mut Each<[u8; BYTES]>,
    scales: &Each,
    offsets: &Each,
) -> Each<bool> {
    let mut fits = put_halves(blocks, 0, scales);
    for (fits, other) in fits.iter_mut().zip(put_halves(blocks, 2, offsets)) {
        *fits &= other;
    }
    fits
}

/// `1 / scale` of what will be read: 0 of 0, and finite.
#[inline(always)]
pub fn inverses(scales: &Each) -> Each {
    let mut inverses = [0.0; TOGETHER];
    for (inverse, scale) in inverses.iter_mut().zip(scales) {
        let scale = saturated(*scale);
        // Of what F16 rounds to 0 it may be infinite.
        let finite = (1.0 / scale).clamp(f32::MIN, f32::MAX);
        *inverse = if scale == 0.0 { 0.0 } else { finite };
    }
    inverses
}
