//! A table of functions, compiled for one instruction set.

use super::figures::{BLOCK, Pair, Written};
use crate::dtype::{Float, Overflow};

/// The operations, compiled for one instruction set.
pub struct Isa {
    pub(super) name: &'static str,
    pub(super) decode: unsafe fn(Float, &[u8], &mut [f32]),
    pub(super) decode_scaled: unsafe fn(Float, &[u8], f32, &mut [f32]),
    pub(super) encode: unsafe fn(Float, Overflow, &[f32], &mut [u8]),
    pub(super) scale: unsafe fn(&[f32], f32, &mut [f32]),
    pub(super) blend: unsafe fn([&[f32]; 2], [f32; 2], &mut [f32]),
    pub(super) add_scaled: unsafe fn(&[f32], f32, &mut [f32]),
    pub(super) gram: unsafe fn(&[f32], &[f32]) -> Pair,
    pub(super) norm2: unsafe fn(&[f32]) -> Pair,
    pub(super) dot: unsafe fn(&[f32], &[f32]) -> f64,
    pub(super) count_nonfinite: unsafe fn(&[f32]) -> u64,
    pub(super) written: unsafe fn(Float, &[u8], &[f32]) -> Written,
}

/// A table named `$name` of the bodies compiled with `$features`.
macro_rules! isa {
    ($name:literal $(, $features:literal)?) => {{
        use crate::dtype::{Float, Overflow};
        use crate::simd::body;
        use crate::simd::figures::{Pair, Written};
        use crate::simd::isa::Isa;

        $(#[target_feature(enable = $features)])?
        fn decode(from: Float, bytes: &[u8], out: &mut [f32]) {
            body::decode(from, bytes, out);
        }
        $(#[target_feature(enable = $features)])?
        fn decode_scaled(from: Float, bytes: &[u8], scale: f32, out: &mut [f32]) {
            body::decode_scaled(from, bytes, scale, out);
        }
        $(#[target_feature(enable = $features)])?
        fn encode(to: Float, overflow: Overflow, values: &[f32], out: &mut [u8]) {
            body::encode(to, overflow, values, out);
        }
        $(#[target_feature(enable = $features)])?
        fn scale(x: &[f32], w: f32, acc: &mut [f32]) {
            body::scale(x, w, acc);
        }
        $(#[target_feature(enable = $features)])?
        fn blend(x: [&[f32]; 2], w: [f32; 2], acc: &mut [f32]) {
            body::blend(x, w, acc);
        }
        $(#[target_feature(enable = $features)])?
        fn add_scaled(x: &[f32], w: f32, acc: &mut [f32]) {
            body::add_scaled(x, w, acc);
        }
        $(#[target_feature(enable = $features)])?
        fn gram(x: &[f32], reference: &[f32]) -> Pair {
            body::gram(x, reference)
        }
        $(#[target_feature(enable = $features)])?
        fn norm2(x: &[f32]) -> Pair {
            body::norm2(x)
        }
        $(#[target_feature(enable = $features)])?
        fn dot(x: &[f32], y: &[f32]) -> f64 {
            body::dot(x, y)
        }
        $(#[target_feature(enable = $features)])?
        fn count_nonfinite(x: &[f32]) -> u64 {
            body::count_nonfinite(x)
        }
        $(#[target_feature(enable = $features)])?
        fn written(to: Float, bytes: &[u8], reference: &[f32]) -> Written {
            body::written(to, bytes, reference)
        }
        Isa {
            name: $name,
            decode,
            decode_scaled,
            encode,
            scale,
            blend,
            add_scaled,
            gram,
            norm2,
            dot,
            count_nonfinite,
            written,
        }
    }};
}
pub(super) use isa;

/// The bodies as the target's baseline compiles them (SSE2 on x86-64, NEON on `AArch64`).
pub(super) static SCALAR: Isa = isa!("scalar");

impl Isa {
    /// `scalar`, `avx2`, `avx512` or `neon`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Decodes little-endian elements, at any alignment, exactly.
    ///
    /// # Panics
    /// If `bytes` is not `out.len()` elements long.
    pub fn decode(&self, from: Float, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * from.bytes(), "bytes to decode");
        // SAFETY: an `Isa` is only handed out after its instruction set was detected.
        unsafe { (self.decode)(from, bytes, out) }
    }

    /// [`Isa::decode`], then each value times `scale`, rounded to f32.
    ///
    /// # Panics
    /// If `bytes` is not `out.len()` elements long.
    pub fn decode_scaled(&self, from: Float, bytes: &[u8], scale: f32, out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * from.bytes(), "bytes to decode");
        // SAFETY: as in `decode`.
        unsafe { (self.decode_scaled)(from, bytes, scale, out) }
    }

    /// Rounds values once to little-endian elements, at any alignment; see [`Float::encode`].
    ///
    /// # Panics
    /// If `out` is not `values.len()` elements long.
    pub fn encode(&self, to: Float, overflow: Overflow, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), values.len() * to.bytes(), "bytes to encode");
        // SAFETY: as in `decode`.
        unsafe { (self.encode)(to, overflow, values, out) }
    }

    /// `acc = x * w`, rounded to f32.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn scale(&self, x: &[f32], w: f32, acc: &mut [f32]) {
        assert_eq!(x.len(), acc.len(), "elements to scale");
        // SAFETY: as in `decode`.
        unsafe { (self.scale)(x, w, acc) }
    }

    /// `acc = x_0 * w_0 + x_1 * w_1`: [`Isa::scale`] and [`Isa::add_scaled`] in one pass, the same
    /// bits.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn blend(&self, x: [&[f32]; 2], w: [f32; 2], acc: &mut [f32]) {
        assert!(x.iter().all(|x| x.len() == acc.len()), "elements to blend");
        // SAFETY: as in `decode`.
        unsafe { (self.blend)(x, w, acc) }
    }

    /// `acc = acc + x * w`: the product is rounded to f32, then the sum.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(&self, x: &[f32], w: f32, acc: &mut [f32]) {
        assert_eq!(x.len(), acc.len(), "elements to add");
        // SAFETY: as in `decode`.
        unsafe { (self.add_scaled)(x, w, acc) }
    }

    /// Norm, dot product and squared distance of one block.
    ///
    /// Element `i` is added to f32 lane `i % 32`, in order; the lanes are added in f64, the upper
    /// half onto the lower until one is left. When a sum is not finite (an element is not, or f32
    /// squares overflowed) all three are formed again in f64, element by element, without the
    /// non-finite elements. Squares below f32's
    /// smallest number vanish: elements below about 1e-22 do not count.
    ///
    /// # Panics
    /// If the lengths differ or exceed [`BLOCK`].
    #[must_use]
    pub fn gram(&self, x: &[f32], reference: &[f32]) -> Pair {
        assert_eq!(x.len(), reference.len(), "elements to compare");
        assert!(x.len() <= BLOCK, "at most one block");
        // SAFETY: as in `decode`.
        unsafe { (self.gram)(x, reference) }
    }

    /// [`Isa::gram`] of a block with itself, with less work.
    ///
    /// # Panics
    /// If the block is longer than [`BLOCK`].
    #[must_use]
    pub fn norm2(&self, x: &[f32]) -> Pair {
        assert!(x.len() <= BLOCK, "at most one block");
        // SAFETY: as in `decode`.
        unsafe { (self.norm2)(x) }
    }

    /// The inner product of one block, summed as in [`Isa::gram`].
    ///
    /// # Panics
    /// If the lengths differ or exceed [`BLOCK`].
    #[must_use]
    pub fn dot(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len(), "elements of an inner product");
        assert!(x.len() <= BLOCK, "at most one block");
        // SAFETY: as in `decode`.
        unsafe { (self.dot)(x, y) }
    }

    /// How many elements are infinite or NaN.
    #[must_use]
    pub fn count_nonfinite(&self, x: &[f32]) -> u64 {
        // SAFETY: as in `decode`.
        x.chunks(BLOCK).map(|x| unsafe { (self.count_nonfinite)(x) }).sum()
    }

    /// What a block became: elements as written, against the decoded `reference`.
    ///
    /// # Panics
    /// If `bytes` is not `reference.len()` elements long, or longer than [`BLOCK`].
    #[must_use]
    pub fn written(&self, to: Float, bytes: &[u8], reference: &[f32]) -> Written {
        assert_eq!(bytes.len(), reference.len() * to.bytes(), "bytes to compare");
        assert!(reference.len() <= BLOCK, "at most one block");
        // SAFETY: as in `decode`.
        unsafe { (self.written)(to, bytes, reference) }
    }
}
