//! Slice operations, each written once in `body` and recompiled per instruction set.
//!
//! An [`Isa`] is a table of functions. It can only be obtained on a processor that has the
//! instruction set, so its methods are safe. All tables give the same bits: the bodies use no fused
//! multiply-add and no reassociation, and the lane count of every reduction is in the source.

#![allow(unsafe_code)]

use crate::dtype::{Float, Overflow};

mod body;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Elements per call: three f32 buffers of this length fit the first-level cache. Also the block
/// of the statistics.
pub const BLOCK: usize = 1024;

/// Sums over one block of an operand `x` and a reference `r`, `delta = x - r` rounded to f32.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pair {
    /// `sum x * x` over the finite `x`.
    pub norm2: f64,
    /// `sum x * r` where both are finite.
    pub dot: f64,
    /// `sum delta * delta` where both are finite.
    pub delta2: f64,
}

/// The operations, compiled for one instruction set.
pub struct Isa {
    name: &'static str,
    decode: unsafe fn(Float, &[u8], &mut [f32]),
    encode: unsafe fn(Float, Overflow, &[f32], &mut [u8]),
    scale: unsafe fn(&[f32], f32, &mut [f32]),
    add_scaled: unsafe fn(&[f32], f32, &mut [f32]),
    gram: unsafe fn(&[f32], &[f32]) -> Pair,
    count_nonfinite: unsafe fn(&[f32]) -> u64,
    count_changed: unsafe fn(&[f32], &[f32]) -> u64,
}

/// A table named `$name` of the bodies compiled with `$features`.
macro_rules! isa {
    ($name:literal $(, $features:literal)?) => {{
        use crate::dtype::{Float, Overflow};
        use crate::simd::{Isa, Pair, body};

        $(#[target_feature(enable = $features)])?
        fn decode(from: Float, bytes: &[u8], out: &mut [f32]) {
            body::decode(from, bytes, out);
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
        fn add_scaled(x: &[f32], w: f32, acc: &mut [f32]) {
            body::add_scaled(x, w, acc);
        }
        $(#[target_feature(enable = $features)])?
        fn gram(x: &[f32], reference: &[f32]) -> Pair {
            body::gram(x, reference)
        }
        $(#[target_feature(enable = $features)])?
        fn count_nonfinite(x: &[f32]) -> u64 {
            body::count_nonfinite(x)
        }
        $(#[target_feature(enable = $features)])?
        fn count_changed(a: &[f32], b: &[f32]) -> u64 {
            body::count_changed(a, b)
        }
        Isa {
            name: $name,
            decode,
            encode,
            scale,
            add_scaled,
            gram,
            count_nonfinite,
            count_changed,
        }
    }};
}
use isa;

/// The bodies as the target's baseline compiles them (SSE2 on x86-64, NEON on `AArch64`).
static SCALAR: Isa = isa!("scalar");

impl Isa {
    /// The tables this processor can run, slowest first; `scalar` is always the first.
    #[must_use]
    pub fn available() -> Vec<&'static Self> {
        let mut all = vec![&SCALAR];
        #[cfg(target_arch = "x86_64")]
        all.extend(x86::available());
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::available());
        all
    }

    /// The fastest of [`Isa::available`].
    #[must_use]
    pub fn best() -> &'static Self {
        Self::available().pop().unwrap_or(&SCALAR)
    }

    /// The table called `name`, if this processor can run it.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::available().into_iter().find(|isa| isa.name == name)
    }

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
    /// Element `i` is added to f32 lane `i % 32`, in order; the lanes are added in f64, in order.
    /// When a sum is not finite (an element is not, or f32 squares overflowed) all three are formed
    /// again in f64, element by element, without the non-finite elements. Squares below f32's
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

    /// How many elements are infinite or NaN.
    #[must_use]
    pub fn count_nonfinite(&self, x: &[f32]) -> u64 {
        // SAFETY: as in `decode`.
        x.chunks(BLOCK).map(|x| unsafe { (self.count_nonfinite)(x) }).sum()
    }

    /// How many elements differ in their bits; +0 and -0 differ, any two NaNs are equal.
    ///
    /// # Panics
    /// If the lengths differ.
    #[must_use]
    pub fn count_changed(&self, a: &[f32], b: &[f32]) -> u64 {
        assert_eq!(a.len(), b.len(), "elements to compare");
        let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK));
        // SAFETY: as in `decode`.
        blocks.map(|(a, b)| unsafe { (self.count_changed)(a, b) }).sum()
    }
}
