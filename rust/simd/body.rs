//! The bodies that every instruction set compiles for itself: plain loops that the compiler
//! vectorises. They are inlined into functions with `#[target_feature]`; nothing else calls them.

#![allow(clippy::inline_always)]

use super::figures::{Pair, Written};
use crate::dtype::{Float, Overflow};

/// f32 accumulators per sum: four registers of AVX2, and enough to hide the adder's latency. Part
/// of the meaning of the statistics, not of the machine.
pub const LANES: usize = 32;

#[inline(always)]
pub(super) fn decode(from: Float, bytes: &[u8], out: &mut [f32]) {
    match from {
        Float::F32 => decode_f32(bytes, out),
        Float::F16 => decode_as::<2>(Float::F16, bytes, out),
        Float::BF16 => decode_as::<2>(Float::BF16, bytes, out),
        Float::F8E4M3 => decode_as::<1>(Float::F8E4M3, bytes, out),
        Float::F8E5M2 => decode_as::<1>(Float::F8E5M2, bytes, out),
    }
}

/// Elements times a number.
#[inline(always)]
pub(super) fn decode_scaled(from: Float, bytes: &[u8], scale: f32, out: &mut [f32]) {
    decode(from, bytes, out);
    for value in out {
        *value *= scale;
    }
}

/// In rows: as one loop it would become one call of `memcpy`, whose string instructions (2 KiB on)
/// run at a tenth of the speed where the low bits of the two addresses are alike.
#[inline(always)]
fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    const ROW: usize = 64;
    for (bytes, out) in bytes.chunks(4 * ROW).zip(out.chunks_mut(ROW)) {
        decode_as::<4>(Float::F32, bytes, out);
    }
}

/// `from` is a constant at every call, `N` its size.
#[inline(always)]
fn decode_as<const N: usize>(from: Float, bytes: &[u8], out: &mut [f32]) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (element, out) in elements.iter().zip(out) {
        let mut bits = [0; 4];
        bits[..N].copy_from_slice(element);
        *out = from.decode(u32::from_le_bytes(bits));
    }
}

#[inline(always)]
pub(super) fn encode(to: Float, overflow: Overflow, values: &[f32], out: &mut [u8]) {
    use Overflow::{Nan, Saturate};
    match (to, overflow) {
        (Float::F32, _) => encode_as::<4>(Float::F32, Nan, values, out),
        (Float::F16, _) => encode_as::<2>(Float::F16, Nan, values, out),
        (Float::BF16, _) => encode_as::<2>(Float::BF16, Nan, values, out),
        (Float::F8E4M3, Nan) => encode_as::<1>(Float::F8E4M3, Nan, values, out),
        (Float::F8E4M3, Saturate) => encode_as::<1>(Float::F8E4M3, Saturate, values, out),
        (Float::F8E5M2, Nan) => encode_as::<1>(Float::F8E5M2, Nan, values, out),
        (Float::F8E5M2, Saturate) => encode_as::<1>(Float::F8E5M2, Saturate, values, out),
    }
}

/// `to` and `overflow` are constants at every call, `N` the size.
#[inline(always)]
fn encode_as<const N: usize>(to: Float, overflow: Overflow, values: &[f32], out: &mut [u8]) {
    let (elements, _) = out.as_chunks_mut::<N>();
    for (value, element) in values.iter().zip(elements) {
        let bits = to.encode(overflow, *value).to_le_bytes();
        element.copy_from_slice(&bits[..N]);
    }
}

#[inline(always)]
pub(super) fn scale(x: &[f32], w: f32, acc: &mut [f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc = x * w;
    }
}

#[inline(always)]
pub(super) fn blend(x: [&[f32]; 2], w: [f32; 2], acc: &mut [f32]) {
    for ((acc, x0), x1) in acc.iter_mut().zip(x[0]).zip(x[1]) {
        *acc = x0 * w[0] + x1 * w[1];
    }
}

#[inline(always)]
pub(super) fn add_scaled(x: &[f32], w: f32, acc: &mut [f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc += x * w;
    }
}

/// One accumulator per lane.
pub type Lanes = [f32; LANES];

#[inline(always)]
pub(super) fn gram(x: &[f32], reference: &[f32]) -> Pair {
    let (mut norm2, mut dot, mut delta2) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    let mut add = |lane: usize, x: f32, r: f32| {
        norm2[lane] += x * x;
        dot[lane] += x * r;
        delta2[lane] += (x - r) * (x - r);
    };
    let (x_rows, x_rest) = x.as_chunks::<LANES>();
    let (r_rows, r_rest) = reference.as_chunks::<LANES>();
    for (x, r) in x_rows.iter().zip(r_rows) {
        for lane in 0..LANES {
            add(lane, x[lane], r[lane]);
        }
    }
    for (lane, (x, r)) in x_rest.iter().zip(r_rest).enumerate() {
        add(lane, *x, *r);
    }
    let pair =
        Pair { norm2: total(&norm2), dot: total(&dot), delta2: total(&delta2), nonfinite: 0 };
    if pair.norm2.is_finite() && pair.dot.is_finite() && pair.delta2.is_finite() {
        pair
    } else {
        gram_f64(x, reference)
    }
}

#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut dot = [0.0; LANES];
    let (x_rows, x_rest) = x.as_chunks::<LANES>();
    let (y_rows, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_rows.iter().zip(y_rows) {
        for lane in 0..LANES {
            dot[lane] += x[lane] * y[lane];
        }
    }
    for (dot, (x, y)) in dot.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *dot += x * y;
    }
    let dot = total(&dot);
    if dot.is_finite() { dot } else { gram_f64(x, y).dot }
}

#[inline(always)]
pub(super) fn norm2(x: &[f32]) -> Pair {
    let mut norm2 = [0.0; LANES];
    let (rows, rest) = x.as_chunks::<LANES>();
    for x in rows {
        for (norm2, x) in norm2.iter_mut().zip(x) {
            *norm2 += x * x;
        }
    }
    for (norm2, x) in norm2.iter_mut().zip(rest) {
        *norm2 += x * x;
    }
    let norm2 = total(&norm2);
    if norm2.is_finite() {
        Pair { norm2, dot: norm2, delta2: 0.0, nonfinite: 0 }
    } else {
        gram_f64(x, x)
    }
}

/// The sum of the lanes in f64; see [`fold`].
#[inline(always)]
#[must_use]
pub fn total(lanes: &Lanes) -> f64 {
    fold(lanes.map(f64::from))
}

/// The sum of `N` lanes, a power of two: the upper half added onto the lower until one is left.
#[inline(always)]
#[must_use]
pub fn fold<const N: usize>(mut sums: [f64; N]) -> f64 {
    let mut half = N / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The same sums in f64, which no f32 can overflow, without the elements that are not finite.
#[cold]
fn gram_f64(x: &[f32], reference: &[f32]) -> Pair {
    let mut pair = Pair::default();
    for (x, r) in x.iter().zip(reference) {
        if x.is_finite() {
            let (x, r) = (f64::from(*x), f64::from(*r));
            pair.norm2 += x * x;
            if r.is_finite() {
                pair.dot += x * r;
                pair.delta2 += (x - r) * (x - r);
            }
        } else {
            pair.nonfinite += 1;
        }
    }
    pair
}

#[inline(always)]
pub(super) fn count_nonfinite(x: &[f32]) -> u64 {
    let count: u32 = x.iter().map(|x| u32::from(!x.is_finite())).sum();
    count.into()
}

#[inline(always)]
pub(super) fn written(to: Float, bytes: &[u8], reference: &[f32]) -> Written {
    match to {
        Float::F32 => written_as::<4>(Float::F32, bytes, reference),
        Float::F16 => written_as::<2>(Float::F16, bytes, reference),
        Float::BF16 => written_as::<2>(Float::BF16, bytes, reference),
        Float::F8E4M3 => written_as::<1>(Float::F8E4M3, bytes, reference),
        Float::F8E5M2 => written_as::<1>(Float::F8E5M2, bytes, reference),
    }
}

/// Decodes and compares in one pass, so that no decoded copy of the output is ever stored.
#[inline(always)]
fn written_as<const N: usize>(to: Float, bytes: &[u8], reference: &[f32]) -> Written {
    const INFINITY: u32 = 0x7F80_0000;
    let value = |element: &[u8; N]| {
        let mut bits = [0; 4];
        bits[..N].copy_from_slice(element);
        to.decode(u32::from_le_bytes(bits)).to_bits()
    };
    let (elements, _) = bytes.as_chunks::<N>();
    let (mut changed, mut largest) = (0_u32, 0);
    for (element, r) in elements.iter().zip(reference) {
        let value = value(element);
        changed += u32::from(value != r.to_bits());
        largest = largest.max(value & !(1 << 31));
    }
    let at_limit = largest >= to.largest().to_bits();
    let mut seen = Written { changed: changed.into(), nonfinite: 0, at_limit };
    if largest >= INFINITY {
        for (element, r) in elements.iter().zip(reference) {
            let value = value(element);
            let is_nan = value & !(1 << 31) > INFINITY;
            seen.nonfinite += u64::from(value & INFINITY == INFINITY);
            seen.changed -= u64::from(is_nan && r.is_nan() && value != r.to_bits());
        }
    }
    seen
}
