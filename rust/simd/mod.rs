//! Slice operations, each written once in `body` and recompiled per instruction set.
//!
//! An [`Isa`] is a table of functions. It can only be obtained on a processor that has the
//! instruction set, so its methods are safe. All tables give the same bits: the bodies use no fused
//! multiply-add and no reassociation, and the lane count of every reduction is in the source.

#![allow(unsafe_code)]

mod body;
#[cfg(target_arch = "x86_64")]
mod f16c;
mod figures;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod run;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use body::{LANES, Lanes, fold, total};
pub use figures::{BLOCK, Pair, Written};
pub use isa::Isa;
use isa::SCALAR;
pub use run::Body;

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
        Self::available().into_iter().find(|isa| isa.name() == name)
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
    use crate::dtype::{Float, Overflow};

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
                for (bits, out) in patterns.iter().zip(&out) {
                    let want = float.decode(*bits).to_bits();
                    assert_eq!(out.to_bits(), want, "{} {float:?} {bits:#x}", isa.name());
                }
                for scale in [1.0, -3.7e-3, 0.0, 1e-40, f32::INFINITY, f32::NAN] {
                    isa.decode_scaled(float, &bytes[1..], scale, &mut out);
                    for (bits, out) in patterns.iter().zip(&out) {
                        let want = float.decode(*bits) * scale;
                        assert!(same(want, *out), "{} {float:?} {bits:#x} {scale}", isa.name());
                    }
                }
                for len in 0..70.min(out.len()) {
                    let bytes = &bytes[1..=len * n];
                    isa.decode(float, bytes, &mut out[..len]);
                    let want = patterns.iter().map(|bits| float.decode(*bits).to_bits());
                    assert!(out[..len].iter().map(|x| x.to_bits()).eq(want.take(len)), "{len}");
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
