//! Slice operations, each written once in `body` and recompiled per instruction set.
//!
//! An [`Isa`] is a table of functions. It can only be obtained on a processor that has the
//! instruction set, so its methods are safe. All tables give the same bits: the bodies use no fused
//! multiply-add and no reassociation, and the lane count of every reduction is in the source.

#![allow(unsafe_code)]

pub use self::body::{LANES, Lanes, fold, total};
use crate::dtype::{Float, Overflow};

mod body;
#[cfg(target_arch = "aarch64")]
mod neon;
mod run;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use run::Body;

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
    /// How many `x` are infinite or NaN.
    pub nonfinite: u64,
}

/// What a block of output looks like beside its first operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Elements that differ in value from the reference; +0 and -0 differ, any two NaNs are equal.
    pub changed: u64,
    /// Infinite and NaN elements.
    pub nonfinite: u64,
    /// Whether any element is as large as the dtype's largest finite one, or larger.
    pub at_limit: bool,
}

/// The operations, compiled for one instruction set.
pub struct Isa {
    name: &'static str,
    decode: unsafe fn(Float, &[u8], &mut [f32]),
    encode: unsafe fn(Float, Overflow, &[f32], &mut [u8]),
    scale: unsafe fn(&[f32], f32, &mut [f32]),
    blend: unsafe fn([&[f32]; 2], [f32; 2], &mut [f32]),
    add_scaled: unsafe fn(&[f32], f32, &mut [f32]),
    gram: unsafe fn(&[f32], &[f32]) -> Pair,
    norm2: unsafe fn(&[f32]) -> Pair,
    dot: unsafe fn(&[f32], &[f32]) -> f64,
    count_nonfinite: unsafe fn(&[f32]) -> u64,
    written: unsafe fn(Float, &[u8], &[f32]) -> Written,
}

/// A table named `$name` of the bodies compiled with `$features`.
macro_rules! isa {
    ($name:literal $(, $features:literal)?) => {{
        use crate::dtype::{Float, Overflow};
        use crate::simd::{Isa, Pair, Written, body};

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

/// Asks the processor to fetch bytes that will be decoded next: the hardware's own look-ahead stops
/// at page borders, and an input's bytes were never touched before.
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(bytes);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Gives the calling thread IEEE arithmetic. New threads inherit the floating-point settings of
/// their parent, and a host may have told its own to flush subnormals to zero
/// (`torch.set_flush_denormal`): every worker calls this first, or the output would depend on it.
pub fn standard_arithmetic() {
    #[cfg(target_arch = "x86_64")]
    x86::standard_arithmetic();
    #[cfg(target_arch = "aarch64")]
    neon::standard_arithmetic();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every exponent and sign, many mantissas, NaNs and infinities.
    fn values(len: usize) -> Vec<f32> {
        (0..len as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9) ^ 0x7F80_0001)).collect()
    }

    #[test]
    fn the_scalar_table_is_always_there_and_the_best_is_the_last() {
        let all = Isa::available();
        assert_eq!(all[0].name(), "scalar");
        assert_eq!(all[all.len() - 1].name(), Isa::best().name());
        assert!(all.iter().all(|isa| Isa::named(isa.name()).is_some()));
        assert!(Isa::named("mmx").is_none());
    }

    #[test]
    fn every_isa_decodes_every_pattern_at_any_alignment() {
        for isa in Isa::available() {
            for float in Float::ALL.iter().copied() {
                let n = float.bytes();
                let patterns: Vec<u32> = match n {
                    4 => values(65_536).iter().map(|x| x.to_bits()).collect(),
                    _ => (0..1 << (8 * n)).collect(),
                };
                let mut bytes = vec![0xAA];
                bytes.extend(
                    patterns.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(n)),
                );
                let mut out = vec![0.0; patterns.len()];
                isa.decode(float, &bytes[1..], &mut out);
                for (bits, out) in patterns.iter().zip(out) {
                    let want = float.decode(*bits).to_bits();
                    assert_eq!(out.to_bits(), want, "{} {float:?} {bits:#x}", isa.name());
                }
            }
        }
    }

    #[test]
    fn every_isa_encodes_alike_at_odd_lengths_and_alignments() {
        for isa in Isa::available() {
            for float in Float::ALL.iter().copied() {
                for overflow in [Overflow::Saturate, Overflow::Nan] {
                    for len in (0..70).chain([1_023, 100_001]) {
                        check_encode(isa, float, overflow, &values(len));
                    }
                }
            }
        }
    }

    fn check_encode(isa: &Isa, float: Float, overflow: Overflow, values: &[f32]) {
        let n = float.bytes();
        let mut out = vec![0xAA; values.len() * n + 2];
        let end = out.len() - 1;
        isa.encode(float, overflow, values, &mut out[1..end]);
        assert_eq!((out[0], out[end]), (0xAA, 0xAA), "bytes outside were written");
        for (x, got) in values.iter().zip(out[1..end].chunks_exact(n)) {
            let want = float.encode(overflow, *x).to_le_bytes();
            assert_eq!(got, &want[..n], "{} {float:?} {overflow:?} {x:e}", isa.name());
        }
    }

    #[test]
    fn every_isa_computes_alike_at_odd_lengths() {
        for isa in Isa::available() {
            for len in (0..70).chain([BLOCK - 1, BLOCK]) {
                let x = values(len);
                let y: Vec<f32> = x.iter().rev().map(|y| y * 0.75).collect();
                let mut acc = vec![0.0; len];
                isa.scale(&x, 0.3, &mut acc);
                assert!(x.iter().zip(&acc).all(|(x, acc)| same(x * 0.3, *acc)), "{}", isa.name());
                let before = acc.clone();
                isa.add_scaled(&y, 0.7, &mut acc);
                for ((y, acc), before) in y.iter().zip(&acc).zip(before) {
                    let product = std::hint::black_box(y * 0.7);
                    assert!(same(before + product, *acc), "{} {y:e}", isa.name());
                }
                let mut blend = vec![0.0; len];
                isa.blend([&x, &y], [0.3, 0.7], &mut blend);
                assert!(acc.iter().zip(blend).all(|(a, b)| same(*a, b)), "{}", isa.name());
                assert_eq!(isa.gram(&x, &y), SCALAR.gram(&x, &y), "{} {len}", isa.name());
                assert_eq!(isa.gram(&x, &x), isa.norm2(&x), "{} {len}", isa.name());
            }
        }
    }

    /// Equal bits, or both NaN: the sign and payload of a computed NaN are not defined.
    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    #[should_panic(expected = "bytes to decode")]
    fn a_wrong_length_is_refused() {
        Isa::best().decode(Float::BF16, &[0; 5], &mut [0.0; 2]);
    }
}
