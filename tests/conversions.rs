//! Conversions between f32 and the mergeable dtypes, against oracles that share no code with them:
//! the `half` crate, and a table of every value of a format in f64, searched for the nearest.

#![allow(clippy::float_cmp)] // exactness is what is tested

use half::{bf16, f16};
use submerge_core::dtype::{Float, Overflow};

/// Mantissa bits, exponent bias, and the magnitude of the first pattern that is not a finite number.
fn shape(dtype: Float) -> (u32, i32, u32) {
    match dtype {
        Float::F32 => (23, 127, 0x7F80_0000),
        Float::F16 => (10, 15, 0x7C00),
        Float::BF16 => (7, 127, 0x7F80),
        Float::F8E4M3 => (3, 7, 0x7F),
        Float::F8E5M2 => (2, 15, 0x7C),
    }
}

const SMALL: [Float; 4] = [Float::F16, Float::BF16, Float::F8E4M3, Float::F8E5M2];
const BOTH: [Overflow; 2] = [Overflow::Saturate, Overflow::Nan];

/// The value of a magnitude by the definition of the format, as if the exponent had no end.
fn value(dtype: Float, magnitude: u32) -> f64 {
    let (mantissa_bits, bias, _) = shape(dtype);
    let one = 1_u64 << mantissa_bits;
    let mantissa = u64::from(magnitude) % one;
    let exponent = (magnitude >> mantissa_bits).cast_signed();
    let (exponent, mantissa) =
        if exponent == 0 { (1, mantissa) } else { (exponent, mantissa + one) };
    mantissa as f64 * 2.0_f64.powi(exponent - bias - mantissa_bits.cast_signed())
}

/// Every finite magnitude of a format, then one beyond: where it would go on.
fn table(dtype: Float) -> Vec<f64> {
    (0..=shape(dtype).2).map(|magnitude| value(dtype, magnitude)).collect()
}

/// The pattern nearest to `x` by search, ties to the even pattern.
fn nearest(dtype: Float, table: &[f64], overflow: Overflow, x: f32) -> u32 {
    if x.is_nan() {
        return dtype.nan();
    }
    let size = f64::from(x.abs());
    let above = table.partition_point(|value| *value <= size).min(table.len() - 1);
    let below = above - 1;
    let (down, up) = (size - table[below], table[above] - size);
    let up_wins = up < down || (up == down && above % 2 == 0);
    let found = if up_wins { above as u32 } else { below as u32 };
    let beyond = shape(dtype).2;
    let is_fp8 = matches!(dtype, Float::F8E4M3 | Float::F8E5M2);
    if found == beyond && is_fp8 && overflow == Overflow::Saturate {
        return (beyond - 1) | sign_bit(dtype, x);
    }
    if found == beyond && dtype == Float::F8E4M3 {
        return dtype.nan();
    }
    found | sign_bit(dtype, x)
}

fn sign_bit(dtype: Float, x: f32) -> u32 {
    u32::from(x.is_sign_negative()) << (8 * dtype.bytes() - 1)
}

/// All upper halves of an f32 with the lower halves where rounding can go wrong.
fn samples() -> impl Iterator<Item = f32> {
    const LOWER: [u32; 12] =
        [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF];
    (0..=0xFFFF_u32).flat_map(|upper| LOWER.map(|lower| f32::from_bits(upper << 16 | lower)))
}

/// The two f32 neighbours of every midpoint between adjacent values, and the midpoint itself.
fn midpoints(table: &[f64]) -> impl Iterator<Item = f32> {
    table.windows(2).flat_map(|pair| {
        let middle = f64::midpoint(pair[0], pair[1]) as f32;
        [middle.next_down(), middle, middle.next_up(), -middle, -middle.next_up()]
    })
}

#[test]
fn decoding_is_the_definition_of_the_format() {
    for dtype in SMALL {
        let bits = 8 * dtype.bytes() as u32;
        for pattern in 0..1_u32 << bits {
            let magnitude = pattern & !(1 << (bits - 1));
            let got = f64::from(dtype.decode(pattern));
            let infinite = dtype != Float::F8E4M3 && magnitude == shape(dtype).2;
            assert_eq!(got.is_sign_negative(), magnitude != pattern, "{dtype:?} {pattern:#x}");
            if magnitude < shape(dtype).2 {
                assert_eq!(got.abs(), value(dtype, magnitude), "{dtype:?} {pattern:#x}");
            } else {
                assert_eq!(got.is_infinite(), infinite, "{dtype:?} {pattern:#x}");
                assert_eq!(got.is_nan(), !infinite, "{dtype:?} {pattern:#x}");
            }
        }
    }
}

#[test]
fn decoding_halves_is_what_the_half_crate_does() {
    for pattern in 0..=u16::MAX {
        for (dtype, want) in [
            (Float::F16, f16::from_bits(pattern).to_f32()),
            (Float::BF16, bf16::from_bits(pattern).to_f32()),
        ] {
            let got = dtype.decode(pattern.into());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
        }
    }
}

#[test]
fn encoding_finds_the_nearest_value() {
    for dtype in SMALL {
        let table = table(dtype);
        for overflow in BOTH {
            for x in samples().chain(midpoints(&table)) {
                let (got, want) = (dtype.encode(overflow, x), nearest(dtype, &table, overflow, x));
                assert_eq!(got, want, "{dtype:?} {overflow:?} {x:e} ({:#x})", x.to_bits());
            }
        }
    }
}

#[test]
fn encoding_halves_is_what_the_half_crate_does() {
    for x in samples().filter(|x| !x.is_nan()) {
        let (half, brain) = (f16::from_f32(x).to_bits(), bf16::from_f32(x).to_bits());
        assert_eq!(Float::F16.encode(Overflow::Nan, x), u32::from(half), "{x:e}");
        assert_eq!(Float::BF16.encode(Overflow::Nan, x), u32::from(brain), "{x:e}");
    }
}

#[test]
fn every_element_survives_a_round_trip() {
    for dtype in SMALL {
        for pattern in 0..1_u32 << (8 * dtype.bytes()) {
            let x = dtype.decode(pattern);
            let want = if x.is_nan() { dtype.nan() } else { pattern };
            assert_eq!(dtype.encode(Overflow::Nan, x), want, "{dtype:?} {pattern:#x}");
        }
    }
}

#[test]
fn f32_is_kept_and_its_nans_become_one() {
    for x in samples() {
        let want = if x.is_nan() { 0x7FC0_0000 } else { x.to_bits() };
        assert_eq!(Float::F32.encode(Overflow::Saturate, x), want);
        assert_eq!(Float::F32.decode(x.to_bits()).to_bits(), x.to_bits());
    }
}

/// Read off `ml_dtypes` 0.6 (`Nan`) and torch 2.15 (which saturates E4M3 and not E5M2), but for the
/// sign of a NaN, which is always dropped.
#[test]
fn fp8_overflow_by_the_table() {
    let inf = f32::INFINITY;
    for (x, saturated, by_rule) in [
        (448.0, 0x7E, 0x7E),
        (464.0, 0x7E, 0x7E),
        (464.1, 0x7E, 0x7F),
        (480.0, 0x7E, 0x7F),
        (-480.0, 0xFE, 0x7F),
        (inf, 0x7E, 0x7F),
        (-inf, 0xFE, 0x7F),
        (f32::NAN, 0x7F, 0x7F),
        (-f32::NAN, 0x7F, 0x7F),
    ] {
        assert_eq!(Float::F8E4M3.encode(Overflow::Saturate, x), saturated, "{x}");
        assert_eq!(Float::F8E4M3.encode(Overflow::Nan, x), by_rule, "{x}");
    }
    for (x, saturated, by_rule) in [
        (57_344.0, 0x7B, 0x7B),
        (61_439.9, 0x7B, 0x7B),
        (61_440.0, 0x7B, 0x7C),
        (-1e9, 0xFB, 0xFC),
        (inf, 0x7B, 0x7C),
        (-inf, 0xFB, 0xFC),
        (f32::NAN, 0x7F, 0x7F),
    ] {
        assert_eq!(Float::F8E5M2.encode(Overflow::Saturate, x), saturated, "{x}");
        assert_eq!(Float::F8E5M2.encode(Overflow::Nan, x), by_rule, "{x}");
    }
}
