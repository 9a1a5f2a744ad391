//! Element types: every dtype a safetensors file can name, and the five floats that can be merged.
//!
//! The conversions here are the definition: one element, integers where the format allows it, no
//! table and no hardware instruction. `simd` runs the same bodies over slices, recompiled per
//! instruction set, so every machine writes the same bits.
//!
//! Decoding is exact. Encoding rounds once, to nearest, ties to even, subnormals included; every
//! NaN becomes one quiet, positive NaN of the output format ([`Float::nan`]), because the sign and
//! payload of a computed NaN are not defined by Rust (RFC 3514).

#![allow(clippy::inline_always)] // the bodies must end up inside the functions with `#[target_feature]`

use serde::{Deserialize, Serialize};

macro_rules! dtypes {
    ($($name:ident $bits:literal)*) => {
        /// Every dtype of the safetensors format, spelled as in the file.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum Dtype { $($name,)* }

        impl Dtype {
            /// All of them, in the order of the format's own list.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The dtype a header spells `name`, if the format has it.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }

            /// The spelling in a header.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Bits per element; F4 and F6 are packed below one byte.
            #[must_use]
            pub fn bits(self) -> u64 {
                match self { $(Self::$name => $bits,)* }
            }
        }
    };
}

dtypes! {
    BOOL 8
    F4 4
    F6_E2M3 6
    F6_E3M2 6
    U8 8
    I8 8
    F8_E5M2 8
    F8_E4M3 8
    F8_E8M0 8
    F8_E4M3FNUZ 8
    F8_E5M2FNUZ 8
    I16 16
    U16 16
    F16 16
    BF16 16
    I32 32
    U32 32
    F32 32
    C64 64
    F64 64
    I64 64
    U64 64
}

impl Dtype {
    /// The float to compute with, or `None` when elements of this dtype can only be copied.
    #[must_use]
    pub fn float(self) -> Option<Float> {
        match self {
            Self::F32 => Some(Float::F32),
            Self::F16 => Some(Float::F16),
            Self::BF16 => Some(Float::BF16),
            Self::F8_E4M3 => Some(Float::F8E4M3),
            Self::F8_E5M2 => Some(Float::F8E5M2),
            _ => None,
        }
    }
}

/// The dtypes that can be merged: each decodes to f32 without loss.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Float {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// OCP FP8 E4M3 (`float8_e4m3fn`): largest value 448, no infinity, NaN is 0x7F and 0xFF.
    F8E4M3,
    /// OCP FP8 E5M2 (`float8_e5m2`): the upper byte of a binary16, largest finite value 57,344.
    F8E5M2,
}

/// What a value beyond the largest finite fp8 becomes. Other formats ignore it: they have room
/// for infinity and round to it as IEEE 754 says. A NaN stays a NaN either way.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// The largest finite value with the same sign, infinities included (448 and 57,344).
    Saturate,
    /// The value rounds as if the exponent were unbounded, and what does not fit becomes the
    /// format's own overflow: NaN in E4M3 (beyond 464, halfway to the missing 480), infinity in
    /// E5M2 (from 61,440). This is the rule of `ml_dtypes`, and of torch where it does not
    /// saturate E4M3.
    Nan,
}

impl Float {
    /// All of them.
    pub const ALL: &[Self] = &[Self::F32, Self::F16, Self::BF16, Self::F8E4M3, Self::F8E5M2];

    /// Bytes per element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
        }
    }

    /// The dtype a header names.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
            Self::F8E4M3 => Dtype::F8_E4M3,
            Self::F8E5M2 => Dtype::F8_E5M2,
        }
    }

    /// The bits every NaN is written as. For E5M2 torch writes 0x7F and `ml_dtypes` 0x7E; torch's
    /// is taken, because torch is what reads the file, and because E4M3 has no other.
    #[must_use]
    pub const fn nan(self) -> u32 {
        match self {
            Self::F32 => 0x7FC0_0000,
            Self::F16 => 0x7E00,
            Self::BF16 => 0x7FC0,
            Self::F8E4M3 | Self::F8E5M2 => 0x7F,
        }
    }

    /// The largest finite value.
    #[inline(always)]
    #[must_use]
    pub const fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => 65_504.0,
            Self::BF16 => f32::from_bits(0x7F7F_0000),
            Self::F8E4M3 => 448.0,
            Self::F8E5M2 => 57_344.0,
        }
    }

    /// The smallest magnitude in f32 that rounds beyond [`Float::largest`] were the exponent
    /// unbounded: halfway to the next value, or above halfway where the tie goes down to even.
    #[must_use]
    pub const fn overflow(self) -> f32 {
        match self {
            Self::F32 => f32::INFINITY,
            Self::F16 => 65_520.0,
            Self::BF16 => f32::from_bits(0x7F7F_8000),
            Self::F8E4M3 => f32::from_bits(464.0_f32.to_bits() + 1),
            Self::F8E5M2 => 61_440.0,
        }
    }

    /// The value of one element, exactly. `bits` holds the element in its low bits, the rest zero.
    #[inline(always)]
    #[must_use]
    pub fn decode(self, bits: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(bits),
            Self::BF16 => f32::from_bits(bits << 16),
            Self::F16 => widen::<10, 15>(bits & 0x7FFF, bits >> 15, 0x7C00),
            Self::F8E5M2 => widen::<2, 15>(bits & 0x7F, bits >> 7, 0x7C),
            Self::F8E4M3 => widen::<3, 7>(bits & 0x7F, bits >> 7, 0x7F),
        }
    }

    /// The value of the element that these bytes are; NaN if they are none.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> f32 {
        if bytes.len() != self.bytes() {
            return f32::NAN;
        }
        let mut bits = [0; 4];
        bits[..bytes.len()].copy_from_slice(bytes);
        self.decode(u32::from_le_bytes(bits))
    }

    /// The element nearest to `value`, ties to even, in the low bits.
    #[inline(always)]
    #[must_use]
    pub fn encode(self, overflow: Overflow, value: f32) -> u32 {
        // NaN is replaced first, so that bf16, the common case, is one straight line of integers.
        let bits = if value.is_nan() { 0x7FC0_0000 } else { value.to_bits() };
        let sign = bits >> 31;
        let magnitude = bits & 0x7FFF_FFFF;
        let rounded = match (self, overflow) {
            (Self::F32, _) => return bits,
            // The bias carries into the upper half exactly when the lower half rounds up; the
            // largest finite values carry into infinity.
            (Self::BF16, _) => return bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16,
            (Self::F16, _) => narrow::<10, 15>(magnitude.min(INFINITE)) | sign << 15,
            (Self::F8E5M2, Overflow::Nan) => narrow::<2, 15>(magnitude.min(INFINITE)) | sign << 7,
            (Self::F8E5M2, Overflow::Saturate) => {
                narrow::<2, 15>(magnitude.min(57_344.0_f32.to_bits())) | sign << 7
            }
            (Self::F8E4M3, Overflow::Nan) => {
                let rounded = narrow::<3, 7>(magnitude.min(480.0_f32.to_bits()));
                rounded | if rounded == self.nan() { 0 } else { sign << 7 }
            }
            (Self::F8E4M3, Overflow::Saturate) => {
                narrow::<3, 7>(magnitude.min(448.0_f32.to_bits())) | sign << 7
            }
        };
        if value.is_nan() { self.nan() } else { rounded }
    }
}

/// 2^16 in f32: where a format with 5 exponent bits has its infinity.
const INFINITE: u32 = 65_536.0_f32.to_bits();

/// Widens a small float of `M` mantissa bits and exponent bias `B`, given as magnitude and sign
/// bit. Magnitudes from `special` on take the exponent of infinity and keep their mantissa; a NaN becomes
/// quiet, as the conversion instructions of processors have it.
///
/// Normal: move the mantissa up and change the bias. Subnormal: put the mantissa under the
/// exponent of the smallest normal and take that normal away again; both floats are exact and no
/// f32 subnormal arises, so the result holds whatever the processor does with those. After F. Giesen,
/// "`half_to_float_fast5`" (public domain).
#[inline(always)]
fn widen<const M: u32, const B: u32>(magnitude: u32, sign: u32, special: u32) -> f32 {
    let moved = magnitude << (23 - M);
    let smallest_normal = (128 - B) << 23;
    let normal = moved.wrapping_add((127 - B) << 23);
    let subnormal = f32::from_bits(moved | smallest_normal) - f32::from_bits(smallest_normal);
    let finite = if magnitude < 1 << M { subnormal.to_bits() } else { normal };
    let quiet = if magnitude > special { f32::NAN.to_bits() } else { f32::INFINITY.to_bits() };
    let bits = if magnitude >= special { moved | quiet } else { finite };
    f32::from_bits(bits | sign << 31)
}

/// Rounds a non-negative f32, given by its bits, to a small float of `M` mantissa bits and exponent
/// bias `B`, to nearest, ties to even. The caller has clamped it to where the exponent fits.
///
/// Normal: change the bias, add half a step less one plus the last kept bit, cut. Subnormal: add
/// the power of two whose f32 step is the format's smallest value; the adder rounds, and the
/// mantissa holds the result. After F. Giesen, "`float_to_half_fast3_rtne`" (public domain).
#[inline(always)]
pub(crate) fn narrow<const M: u32, const B: u32>(magnitude: u32) -> u32 {
    let cut = 23 - M;
    let smallest_normal = (128 - B) << 23;
    let magic = (128 - B + cut) << 23;
    let half = (1 << (cut - 1)) - 1 + ((magnitude >> cut) & 1);
    let normal = magnitude.wrapping_sub((127 - B) << 23).wrapping_add(half) >> cut;
    let sum = f32::from_bits(magnitude) + f32::from_bits(magic);
    let subnormal = sum.to_bits().wrapping_sub(magic);
    if magnitude < smallest_normal { subnormal } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_those_of_the_format() {
        for dtype in Dtype::ALL.iter().copied() {
            let theirs: safetensors::Dtype = serde_json::from_str(&format!("\"{}\"", dtype.name()))
                .expect("a dtype of the format");
            assert_eq!(theirs.bitsize() as u64, dtype.bits(), "{}", dtype.name());
            assert_eq!(theirs.to_string(), dtype.name());
            assert_eq!(Dtype::parse(dtype.name()), Some(dtype));
            assert_eq!(serde_json::to_string(&dtype).expect("a string"), format!("\"{theirs}\""));
        }
        assert_eq!(Dtype::ALL.len(), 22);
        assert_eq!(Dtype::parse("bf16"), None);
    }

    #[test]
    fn the_limits_are_where_encoding_changes() {
        for float in Float::ALL.iter().copied().filter(|float| *float != Float::F32) {
            let value = |x: f32| float.decode(float.encode(Overflow::Nan, x));
            let (largest, limit) = (float.largest(), float.overflow());
            assert_eq!(value(largest).to_bits(), largest.to_bits(), "{float:?}");
            assert_eq!(value(limit.next_down()).to_bits(), largest.to_bits(), "{float:?}");
            assert!(!value(limit).is_finite(), "{float:?}");
        }
    }

    #[test]
    fn a_float_has_the_size_of_its_dtype() {
        for float in Float::ALL.iter().copied() {
            assert_eq!(float.dtype().bits(), 8 * float.bytes() as u64);
            assert_eq!(float.dtype().float(), Some(float));
        }
        let mergeable = Dtype::ALL.iter().filter(|dtype| dtype.float().is_some());
        assert_eq!(mergeable.count(), Float::ALL.len());
    }
}
