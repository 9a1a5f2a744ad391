//! Codes of 8 bits under a scale: FP8, or signed bytes.

#![allow(clippy::inline_always)]

use crate::dtype::{Float, Overflow};
use crate::math::noise;
use crate::simd::{BLOCK, Body, Isa};

/// What a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An FP8.
    Float(Float),
    /// A signed byte; -128 is read and never written.
    Int,
}

/// How values become codes.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// What they are divided by.
    pub scale: f32,
    /// Whether that is a product with `1 / scale`.
    pub inverse: bool,
    /// What an FP8 out of range becomes.
    pub overflow: Overflow,
    /// The key of the noise that rounds, if any does.
    pub seed: Option<u64>,
    /// Where the first stands in the whole tensor.
    pub first: u64,
}

/// The name of a codec that may round at random.
pub(super) fn named(name: String, seed: Option<u64>) -> String {
    match seed {
        Some(seed) => name + &format!(" at random {seed}"),
        None => name,
    }
}

impl Code {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Float(float) => float.dtype().name(),
            Self::Int => "I8",
        }
    }

    /// The largest finite value of a code.
    #[must_use]
    pub fn largest(self) -> f32 {
        match self {
            Self::Float(float) => float.largest(),
            Self::Int => 127.0,
        }
    }

    /// Codes times two factors, one after the other.
    pub fn decode(self, isa: &Isa, bytes: &[u8], factors: [f32; 2], out: &mut [f32]) {
        match self {
            Self::Float(float) => isa.decode_scaled(float, bytes, factors[0], out),
            Self::Int => isa.run(Ints { bytes, factors, out }),
        }
    }

    /// Rounds at most [`BLOCK`] values.
    pub fn encode(self, isa: &Isa, how: Encoding, values: &[f32], out: &mut [u8]) {
        let mut quotients = [0.0; BLOCK];
        let quotients = &mut quotients[..values.len()];
        if how.inverse {
            isa.scale(values, 1.0 / how.scale, quotients);
        } else {
            isa.run(Divide { values, by: how.scale, out: quotients });
        }
        if let Some(key) = how.seed {
            return self.encode_at_random(isa, (key, how.first), how.overflow, quotients, out);
        }
        match self {
            Self::Float(float) => isa.encode(float, how.overflow, quotients, out),
            Self::Int => isa.run(ToInts { values: quotients, out }),
        }
    }

    /// Rounds at most [`BLOCK`] values, which are under no scale, to one of their neighbours: to the upper
    /// one with the share of the step that lies below the value. The noise is that of the element's place.
    pub fn encode_at_random(
        self,
        isa: &Isa,
        (key, first): (u64, u64),
        overflow: Overflow,
        values: &[f32],
        out: &mut [u8],
    ) {
        let mut words = [0; BLOCK];
        let words = &mut words[..values.len()];
        noise::words(isa, key, first, words);
        match self {
            Self::Float(float) => isa.run(AtRandom { float, overflow, values, words, out }),
            Self::Int => isa.run(IntsAtRandom { values, words, out }),
        }
    }
}

struct Divide<'a> {
    values: &'a [f32],
    by: f32,
    out: &'a mut [f32],
}

impl Body for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.iter_mut().zip(self.values).for_each(|(q, value)| *q = value / self.by);
    }
}

struct Ints<'a> {
    bytes: &'a [u8],
    factors: [f32; 2],
    out: &'a mut [f32],
}

impl Body for Ints<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [scale, factor] = self.factors;
        for (value, code) in self.out.iter_mut().zip(self.bytes) {
            *value = f32::from(code.cast_signed()) * scale * factor;
        }
    }
}

struct ToInts<'a> {
    values: &'a [f32],
    out: &'a mut [u8],
}

impl Body for ToInts<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Its step in f32 is 1: the adder rounds, and the lowest bits are the integer.
        const MAGIC: f32 = 12_582_912.0;
        for (code, value) in self.out.iter_mut().zip(self.values) {
            *code = (in_range(*value) + MAGIC).to_bits() as u8;
        }
    }
}

/// A NaN is the smallest: what shares its scale is NaN whatever the codes.
#[inline(always)]
#[allow(clippy::manual_clamp)] // which leaves a NaN
fn in_range(value: f32) -> f32 {
    value.max(-127.0).min(127.0)
}

struct IntsAtRandom<'a> {
    values: &'a [f32],
    words: &'a [u32],
    out: &'a mut [u8],
}

impl Body for IntsAtRandom<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((code, value), word) in self.out.iter_mut().zip(self.values).zip(self.words) {
            let value = in_range(*value);
            let (magnitude, negative) = (value.abs(), value < 0.0);
            let whole = magnitude as i32;
            let share = magnitude - whole as f32; // exact
            let noise = (word >> 8).cast_signed() as f32 * (1.0 / 16_777_216.0); // exact, below 1
            let rounded = whole + i32::from(noise < share);
            *code = (if negative { -rounded } else { rounded } as i8).cast_unsigned();
        }
    }
}

struct AtRandom<'a> {
    float: Float,
    overflow: Overflow,
    values: &'a [f32],
    words: &'a [u32],
    out: &'a mut [u8],
}

impl Body for AtRandom<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.float {
            Float::F8E5M2 => self.of::<2, 15>(),
            _ => self.of::<3, 7>(),
        }
    }
}

impl AtRandom<'_> {
    #[inline(always)]
    fn of<const M: u32, const B: u32>(self) {
        let (largest, limit) = (self.float.largest(), self.float.overflow());
        for ((code, value), word) in self.out.iter_mut().zip(self.values).zip(self.words) {
            let magnitude = value.abs();
            let inside = magnitude.min(largest); // of a NaN it is the largest
            let rounded = at_random::<M, B>(inside.to_bits(), *word);
            let signed = rounded | (value.to_bits() >> 31) << 7;
            // What does not fit is what rounding to the nearest makes of it.
            let lost = value.is_nan() || self.overflow == Overflow::Nan && magnitude >= limit;
            *code = if lost { self.float.encode(self.overflow, *value) } else { signed } as u8;
        }
    }
}

/// Rounds a non-negative f32, given by its bits, to one of its two neighbours among the small floats of `M`
/// mantissa bits and exponent bias `B`; at most the largest of them.
///
/// Normal: below the last kept bit stand `23 - M` bits, and noise of as many carries into it with the share
/// that they are. Subnormal: the same with 28 bits of a fixed step.
#[inline(always)]
fn at_random<const M: u32, const B: u32>(magnitude: u32, word: u32) -> u32 {
    let cut = 23 - M;
    let smallest_normal = (128 - B) << 23;
    let normal = magnitude.wrapping_sub((127 - B) << 23).wrapping_add(word >> (32 - cut)) >> cut;
    let steps =
        f32::from_bits(magnitude.min(smallest_normal)) * f32::from_bits((126 + B + M + 28) << 23);
    let subnormal = (steps as i32).cast_unsigned().wrapping_add(word >> 4) >> 28;
    if magnitude < smallest_normal { subnormal } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise that is even: every share of all words is below itself.
    fn even(count: u32) -> Vec<u32> {
        (0..count).map(|i| i << (32 - count.trailing_zeros())).collect()
    }

    fn coded(code: Code, value: f32, words: &[u32], isa: &Isa) -> Vec<u8> {
        let (values, mut out) = (vec![value; words.len()], vec![0; words.len()]);
        match code {
            Code::Int => isa.run(IntsAtRandom { values: &values, words, out: &mut out }),
            Code::Float(float) => {
                let overflow = Overflow::Saturate;
                isa.run(AtRandom { float, overflow, values: &values, words, out: &mut out });
            }
        }
        out
    }

    fn decoded(code: Code, byte: u8) -> f64 {
        match code {
            Code::Int => f64::from(byte.cast_signed()),
            Code::Float(float) => float.decode(byte.into()).into(),
        }
    }

    /// Between any two neighbouring codes the mean is the value.
    #[test]
    fn rounding_at_random_is_fair_everywhere() {
        let words = even(1 << 10);
        for code in [Code::Int, Code::Float(Float::F8E4M3), Code::Float(Float::F8E5M2)] {
            let all = (0..=255_u8).map(|byte| decoded(code, byte)).filter(|x| x.is_finite());
            let mut all: Vec<f64> = all.filter(|x| x.abs() <= f64::from(code.largest())).collect();
            all.sort_by(f64::total_cmp);
            all.dedup();
            for pair in all.windows(2) {
                for share in [0.0, 0.125, 0.5, 0.9375] {
                    let step = pair[1] - pair[0];
                    let value = pair[0] + share * step;
                    let bytes = coded(code, value as f32, &words, Isa::best());
                    let sum: f64 = bytes.iter().map(|byte| decoded(code, *byte)).sum();
                    let mean = sum / words.len() as f64;
                    assert!((mean - value).abs() <= step / 512.0, "{code:?} {value} {mean}");
                    let near = |byte: &u8| pair.contains(&decoded(code, *byte));
                    assert!(bytes.iter().all(near), "{code:?} {value}");
                }
            }
        }
    }

    #[test]
    fn every_isa_rounds_alike_and_what_does_not_fit_is_not_lost() {
        let values: Vec<f32> =
            (0..4096_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9))).collect();
        let words: Vec<u32> = (0..4096_u32).map(|i| i.wrapping_mul(0x85EB_CA6B)).collect();
        for float in [Float::F8E4M3, Float::F8E5M2] {
            for overflow in [Overflow::Saturate, Overflow::Nan] {
                let made = |isa: &Isa| {
                    let mut out = vec![0; values.len()];
                    let (values, words) = (&values, &words);
                    isa.run(AtRandom { float, overflow, values, words, out: &mut out });
                    out
                };
                let scalar = made(Isa::available()[0]);
                assert!(Isa::available().iter().all(|isa| made(isa) == scalar));
                for (value, byte) in values.iter().zip(scalar) {
                    let nearest = float.encode(overflow, *value) as u8;
                    let beyond = value.is_nan() || value.abs() >= float.overflow();
                    assert!(!beyond || byte == nearest, "{float:?} {overflow:?} {value:e}");
                }
            }
        }
        for value in [127.0, 127.4, -127.0, -200.0, f32::INFINITY] {
            let byte = coded(Code::Int, value, &[u32::MAX, 0], Isa::best());
            assert_eq!(byte, [(value.clamp(-127.0, 127.0) as i8).cast_unsigned(); 2]);
        }
    }
}
