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
            bytes.extend(patterns.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(n)));
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

#[test]
fn blending_bytes_is_decoding_blending_and_encoding() {
    for (len, shift) in [(1, 0), (15, 1), (16, 2), (777, 3), (BLOCK, 1)] {
        for scale in [1.0_f32, f32::NAN] {
            // With NaN the values run through every exponent, non-finite ones among them.
            let value = |x: &f32| if scale.is_nan() { *x } else { x.to_bits() as f32 * 1e-9 - 2.0 };
            let all: Vec<f32> = values(len + shift).iter().map(value).collect();
            let (a, b) = (&all[..len], &all[shift..]);
            for to in Float::ALL.iter().copied() {
                let bytes = |x: &[f32]| {
                    let mut bytes = vec![0; len * to.bytes()];
                    SCALAR.encode(to, Overflow::Nan, x, &mut bytes);
                    bytes
                };
                let (a, b) = (bytes(a), bytes(b));
                let decoded = |x: &[u8]| {
                    let mut values = vec![0.0; len];
                    SCALAR.decode(to, x, &mut values);
                    values
                };
                let (x, y) = (decoded(&a), decoded(&b));
                let (mut blend, mut expected) = (vec![0.0; len], vec![0; len * to.bytes()]);
                SCALAR.blend([&x, &y], [0.3, 0.7], &mut blend);
                SCALAR.encode(to, Overflow::Saturate, &blend, &mut expected);
                let seen = Blended {
                    pairs: [SCALAR.norm2(&x), SCALAR.gram(&y, &x)],
                    written: SCALAR.written(to, &expected, &x),
                };
                for isa in Isa::available() {
                    let (what, mut out) = ((to, Overflow::Saturate), vec![0; expected.len()]);
                    isa.blend_bytes(what, [&a, &b], [0.3, 0.7], &mut out);
                    assert_eq!(out, expected, "{} {to:?}", isa.name());
                    out.fill(0);
                    let got = isa.blend_bytes_measured(what, [&a, &b], [0.3, 0.7], &mut out);
                    assert_eq!((out, got), (expected.clone(), seen), "{} {to:?}", isa.name());
                }
            }
        }
    }
}
