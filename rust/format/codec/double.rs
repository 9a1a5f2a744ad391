//! IEEE 754 binary64: read with one rounding, written exactly.

#![allow(clippy::float_cmp)] // whether it is exact is asked

use super::contract::{Block, Codec, Run, Values};
use crate::simd::Isa;

/// How a binary64 becomes an f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// To the neighbour with an odd last bit unless it is exact: what is lost stays visible, so that a
    /// second rounding, to a format with at least two bits less, gives what one would have. After S.
    /// Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums" (2008), theorem 3.
    Odd,
}

/// One F64 after the other.
#[derive(Clone, Copy, Debug)]
pub struct Double(pub Rounding);

impl Codec for Double {
    fn name(&self) -> String {
        match self.0 {
            Rounding::Nearest => "F64".to_owned(),
            Rounding::Odd => "F64 to odd".to_owned(),
        }
    }

    fn block(&self) -> Block {
        Block { elements: 1, bytes: 8 }
    }

    fn decode(&self, _: &Isa, run: Run, out: &mut [f32]) {
        let (elements, _) = run.bytes.as_chunks::<8>();
        for (element, out) in elements.iter().zip(out) {
            let value = f64::from_le_bytes(*element);
            *out = match self.0 {
                Rounding::Nearest => value as f32,
                Rounding::Odd => to_odd(value),
            };
        }
    }

    fn encode(&self, _: &Isa, values: Values, out: &mut [u8]) {
        let (elements, _) = out.as_chunks_mut::<8>();
        for (value, element) in values.values.iter().zip(elements) {
            let value = if value.is_nan() { f32::from_bits(0x7FC0_0000) } else { *value };
            *element = f64::from(value).to_le_bytes();
        }
    }

    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}

/// The nearest f32 if it is exact, else the one of the two neighbours whose last bit is odd.
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let exact = f64::from(nearest);
    if exact == value || nearest.is_nan() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // An even neighbour has odd ones on both sides; infinity counts as even.
    if exact < value { nearest.next_up() } else { nearest.next_down() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{Float, Overflow};

    /// The element of `float` nearest to `value`, by trying all of them; ties go to the even one.
    fn nearest(float: Float, value: f64) -> f32 {
        let bits = 0..1_u32 << (8 * float.bytes());
        let all = bits.map(|bits| (bits, float.decode(bits))).filter(|(_, x)| x.is_finite());
        let distance = |x: f32| (f64::from(x) - value).abs();
        let near = all.min_by(|(a, x), (b, y)| {
            distance(*x).total_cmp(&distance(*y)).then((a & 1).cmp(&(b & 1)))
        });
        near.expect("a finite number").1
    }

    #[test]
    fn a_second_rounding_gives_what_one_would_have() {
        for float in [Float::F8E4M3, Float::F8E5M2, Float::F16, Float::BF16] {
            let step = if float.bytes() == 1 { 1 } else { 509 };
            for bits in (0..1_u32 << (8 * float.bytes() - 1)).step_by(step) {
                let (low, high) = (float.decode(bits), float.decode(bits + 1));
                if !low.is_finite() || !high.is_finite() {
                    continue;
                }
                let middle = f64::midpoint(f64::from(low), f64::from(high));
                for value in [middle.next_down(), middle, middle.next_up(), -middle.next_up()] {
                    let got = float.decode(float.encode(Overflow::Saturate, to_odd(value)));
                    let expected = nearest(float, value.abs()).copysign(value as f32);
                    assert_eq!(got.to_bits(), expected.to_bits(), "{float:?} {value:e}");
                }
            }
        }
    }

    #[test]
    fn what_is_exact_stays_and_what_is_not_is_odd() {
        for value in [0.0, -0.0, 1.0, -1.5, f64::INFINITY, f64::NEG_INFINITY, f64::from(f32::MAX)] {
            assert_eq!(f64::from(to_odd(value)).to_bits(), value.to_bits());
        }
        assert!(to_odd(f64::NAN).is_nan());
        assert_eq!(to_odd(1e300), f32::MAX);
        assert_eq!(to_odd(-1e-300).to_bits(), 0x8000_0001);
        assert_eq!(to_odd(1.0 + 1e-12), 1.0_f32.next_up());
        assert_eq!(to_odd(1.0 - 1e-12), 1.0_f32.next_down());
    }
}
