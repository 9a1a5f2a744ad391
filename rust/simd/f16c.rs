//! Small floats decoded through the half-precision conversion of F16C: exact, subnormals included,
//! whatever the control word says of them.
//!
//! An E5M2 is the upper byte of an F16. An E4M3 moved under the sign and exponent of an F16 is its value
//! times 2^-8, subnormal or not; its NaN is put in by hand.

#![allow(clippy::inline_always)]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_castsi256_si128,
    _mm256_cmpeq_epi16, _mm256_cvtepi8_epi16, _mm256_cvtph_ps, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi16, _mm256_set1_ps,
    _mm256_slli_epi16, _mm256_storeu_ps,
};

use super::body;
use crate::dtype::Float;

/// Elements at once.
const WIDE: usize = 16;
const TWO_8: f32 = 256.0;

macro_rules! table {
    ($decode:ident $scaled:ident $features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn $decode(from: Float, bytes: &[u8], out: &mut [f32]) {
            match from {
                Float::F16 => halves::<false>(bytes, 1.0, out),
                Float::F8E4M3 => e4m3::<false>(bytes, 1.0, out),
                Float::F8E5M2 => e5m2::<false>(bytes, 1.0, out),
                Float::BF16 | Float::F32 => body::decode(from, bytes, out),
            }
        }

        #[target_feature(enable = $features)]
        pub(super) fn $scaled(from: Float, bytes: &[u8], scale: f32, out: &mut [f32]) {
            match from {
                Float::F16 => halves::<true>(bytes, scale, out),
                // The two factors are one where that is exact.
                Float::F8E4M3 if (scale * TWO_8).is_finite() => e4m3::<true>(bytes, scale, out),
                Float::F8E5M2 => e5m2::<true>(bytes, scale, out),
                _ => body::decode_scaled(from, bytes, scale, out),
            }
        }
    };
}

table!(decode_avx2 decode_scaled_avx2 "avx2,f16c");
table!(decode_avx512 decode_scaled_avx512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c");

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves<const SCALED: bool>(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (now, tail) = out.as_chunks_mut::<WIDE>();
    let (bytes, rest) = bytes.as_chunks::<{ 2 * WIDE }>();
    for (bytes, out) in bytes.iter().zip(now) {
        widen::<SCALED>(load_halves(bytes), scale, out);
    }
    finish::<SCALED>(Float::F16, rest, scale, tail);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn e5m2<const SCALED: bool>(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (now, tail) = out.as_chunks_mut::<WIDE>();
    let (bytes, rest) = bytes.as_chunks::<WIDE>();
    for (bytes, out) in bytes.iter().zip(now) {
        let halves = _mm256_slli_epi16::<8>(_mm256_cvtepi8_epi16(load_bytes(bytes)));
        widen::<SCALED>(halves, scale, out);
    }
    finish::<SCALED>(Float::F8E5M2, rest, scale, tail);
}

/// `scale · 2^8` is exact.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn e4m3<const SCALED: bool>(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (now, tail) = out.as_chunks_mut::<WIDE>();
    let (bytes, rest) = bytes.as_chunks::<WIDE>();
    for (bytes, out) in bytes.iter().zip(now) {
        // The sign is now twice above the magnitude.
        let moved = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(load_bytes(bytes)));
        let halves = _mm256_and_si256(moved, _mm256_set1_epi16(0xBF80_u16.cast_signed()));
        let magnitudes = _mm256_or_si256(moved, _mm256_set1_epi16(0xC000_u16.cast_signed()));
        let all_ones = _mm256_set1_epi16(0xFF80_u16.cast_signed());
        let is_nan = _mm256_cmpeq_epi16(magnitudes, all_ones);
        let nan = _mm256_and_si256(is_nan, _mm256_set1_epi16(0x4000));
        widen::<true>(_mm256_or_si256(halves, nan), scale * TWO_8, out);
    }
    finish::<SCALED>(Float::F8E4M3, rest, scale, tail);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen<const SCALED: bool>(halves: __m256i, scale: f32, out: &mut [f32; WIDE]) {
    let both = [_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)];
    let (out, _) = out.as_chunks_mut::<8>();
    for (half, out) in both.into_iter().zip(out) {
        let mut values = _mm256_cvtph_ps(half);
        if SCALED {
            values = _mm256_mul_ps(values, _mm256_set1_ps(scale));
        }
        // SAFETY: `out` is eight floats long.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
    }
}

#[inline(always)]
fn finish<const SCALED: bool>(from: Float, rest: &[u8], scale: f32, tail: &mut [f32]) {
    if SCALED {
        body::decode_scaled(from, rest, scale, tail);
    } else {
        body::decode(from, rest, tail);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(bytes: &[u8; WIDE]) -> __m128i {
    // SAFETY: the array is as long.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_halves(bytes: &[u8; 2 * WIDE]) -> __m256i {
    // SAFETY: the array is as long.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
