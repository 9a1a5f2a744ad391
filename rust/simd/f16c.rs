//! Small floats decoded through the half-precision conversion of F16C: exact, subnormals included,
//! whatever the control word says of them.
//!
//! An E5M2 is the upper byte of an F16. An E4M3 moved under the sign and exponent of an F16 is its value
//! times 2^-8, subnormal or not; its NaN is put in by hand.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_castsi256_si128, _mm256_cmpeq_epi16, _mm256_cvtepi8_epi16, _mm256_cvtph_ps,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_mul_ps, _mm256_or_si256,
    _mm256_set1_epi16, _mm256_set1_ps, _mm256_slli_epi16, _mm256_storeu_ps,
};

use super::body;
use crate::dtype::Float;

/// Elements at once.
const WIDE: usize = 16;

macro_rules! table {
    ($decode:ident $scaled:ident $features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn $decode(from: Float, bytes: &[u8], out: &mut [f32]) {
            match from {
                Float::F16 => small::<2, false>(from, bytes, 1.0, out),
                Float::F8E4M3 | Float::F8E5M2 => small::<1, false>(from, bytes, 1.0, out),
                Float::BF16 | Float::F32 => body::decode(from, bytes, out),
            }
        }

        #[target_feature(enable = $features)]
        pub(super) fn $scaled(from: Float, bytes: &[u8], scale: f32, out: &mut [f32]) {
            match from {
                Float::F16 => small::<2, true>(from, bytes, scale, out),
                Float::F8E4M3 | Float::F8E5M2 => small::<1, true>(from, bytes, scale, out),
                Float::BF16 | Float::F32 => body::decode_scaled(from, bytes, scale, out),
            }
        }
    };
}

table!(decode_avx2 decode_scaled_avx2 "avx2,f16c");
table!(decode_avx512 decode_scaled_avx512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c");

/// Elements of `N` bytes, times `scale` if they are `SCALED`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn small<const N: usize, const SCALED: bool>(
    from: Float,
    bytes: &[u8],
    scale: f32,
    out: &mut [f32],
) {
    let whole = out.len() / WIDE * WIDE;
    let (now, rest) = out.split_at_mut(whole);
    let (bytes, tail) = bytes.split_at(whole * N);
    for (bytes, out) in bytes.chunks_exact(WIDE * N).zip(now.chunks_exact_mut(WIDE)) {
        let halves = match from {
            Float::F16 => load_halves(bytes),
            Float::F8E5M2 => _mm256_slli_epi16::<8>(_mm256_cvtepi8_epi16(load_bytes(bytes))),
            _ => e4m3(_mm256_cvtepi8_epi16(load_bytes(bytes))),
        };
        let both = [_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)];
        for (half, out) in both.into_iter().zip(out.chunks_exact_mut(8)) {
            let mut values = _mm256_cvtph_ps(half);
            if from == Float::F8E4M3 {
                values = _mm256_mul_ps(values, _mm256_set1_ps(256.0));
            }
            if SCALED {
                values = _mm256_mul_ps(values, _mm256_set1_ps(scale));
            }
            // SAFETY: `out` is eight floats long.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
        }
    }
    if SCALED {
        body::decode_scaled(from, tail, scale, rest);
    } else {
        body::decode(from, tail, rest);
    }
}

/// From sign-extended codes.
#[inline]
#[target_feature(enable = "avx2")]
fn e4m3(codes: __m256i) -> __m256i {
    let moved = _mm256_slli_epi16::<7>(codes);
    let halves = _mm256_and_si256(moved, _mm256_set1_epi16(0xBF80_u16.cast_signed()));
    let nan = _mm256_set1_epi16(0xFF80_u16.cast_signed());
    // The sign is twice above the magnitude: all ones with it or without.
    let magnitudes = _mm256_or_si256(moved, _mm256_set1_epi16(0xC000_u16.cast_signed()));
    let is_nan = _mm256_cmpeq_epi16(magnitudes, nan);
    _mm256_blendv_epi8(halves, _mm256_or_si256(halves, nan_bits()), is_nan)
}

/// What makes the largest magnitude a NaN.
#[inline]
#[target_feature(enable = "avx2")]
fn nan_bits() -> __m256i {
    _mm256_set1_epi16(0x7F80)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(bytes: &[u8]) -> __m128i {
    assert!(bytes.len() >= WIDE, "elements at once");
    // SAFETY: the slice is as long.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_halves(bytes: &[u8]) -> __m256i {
    assert!(bytes.len() >= 2 * WIDE, "elements at once");
    // SAFETY: the slice is as long.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
