//! The block formats of ggml: the bytes of ggml itself and the numbers of its Python package, by
//! digests; what has no place in them; and that every instruction set gives the same.

use serde_json::{Value, json};
use submerge_core::dtype::Overflow;
use submerge_core::format::codec::{Codec, Ggml, Run, Sides, Values};
use submerge_core::simd::Isa;

use super::job::{Job, Model, rows};

const ELEMENTS: usize = 256 * 40;

fn hash(i: u32) -> u32 {
    let x = i.wrapping_mul(0x9E37_79B1);
    (x ^ x >> 15).wrapping_mul(0x85EB_CA6B)
}

/// Blocks of 256 of many sizes; some halves of them are zeros, some constant, some positive, some sparse.
fn values() -> Vec<f32> {
    let value = |i: u32| {
        let block = i / 256;
        let x = (hash(i) >> 8) as f32 / 16_777_216.0 - 0.5;
        let size = f32::from_bits((127 - 14 + block % 24) << 23);
        let x = x * size;
        match (block % 5, i / 128 % 2) {
            (1, 1) => 0.0,
            (2, 1) => -0.375 * size,
            (3, 0) => x.abs(),
            (4, 1) if !hash(i).is_multiple_of(16) => 0.0,
            _ => x,
        }
    };
    (0..ELEMENTS as u32).map(value).collect()
}

/// Codes of every kind; every 16 bits of a scale may be infinite or NaN.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (hash(i) >> 24) as u8).collect()
}

/// FNV-1a of 64 bits.
fn digest(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, step)
}

/// Digests of what `quants.dequantize` of the package gguf 0.19.0 makes of [`bytes`], and of what
/// `ggml_quantize_chunk` of ggml 0.20.2 (x86-64, without fused multiply-add) makes of [`values`].
const MADE: [(Ggml, u64, Option<u64>); 13] = [
    (Ggml::Q8_0, 0x278F_09FB_6A77_BDC2, Some(0xD93B_1A8C_3C5B_63E3)),
    (Ggml::Q4_0, 0xBC42_83E6_D58B_82F8, Some(0x72B4_3393_8907_9149)),
    (Ggml::Q4_1, 0x914F_42E8_EE9B_C1B3, Some(0xC70F_E6F4_C82C_1F2C)),
    (Ggml::Q5_0, 0xE9AF_7162_8C04_99BB, Some(0x0792_26EB_A31D_8AB1)),
    (Ggml::Q5_1, 0x5100_534F_95F1_D054, Some(0xF22D_250B_B34A_EEB8)),
    (Ggml::Q2_K, 0x8EC7_4F76_7786_2E1F, None),
    (Ggml::Q3_K, 0xADA9_9FE1_7AF4_0FFE, None),
    (Ggml::Q4_K, 0x875B_DE6B_F98A_7485, Some(0xA359_ED0F_F797_BDCB)),
    (Ggml::Q5_K, 0x09C7_64D0_154E_554A, Some(0x5DBD_0CD0_0F56_4C01)),
    (Ggml::Q6_K, 0xC4AE_1630_4EA8_0B73, Some(0x4492_C69D_ACEE_B2E9)),
    (Ggml::IQ4_NL, 0xD5FC_4C80_CDCA_11C9, None),
    (Ggml::IQ4_XS, 0xEA3F_9C35_82E0_AEAE, None),
    (Ggml::MXFP4, 0x21BE_AF84_3359_F112, None),
];

fn encode(codec: &dyn Codec, isa: &Isa, overflow: Overflow, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0xAA; codec.block().range(0..values.len()).len()];
    let of = Values { first: 0, values, sides: Sides::default(), overflow };
    codec.encode(isa, of, &mut out);
    out
}

fn decode(codec: &dyn Codec, isa: &Isa, bytes: &[u8]) -> Vec<f32> {
    let block = codec.block();
    let mut out = vec![0.0; bytes.len() / block.bytes * block.elements];
    codec.decode(isa, Run { first: 0, bytes, sides: Sides::default() }, &mut out);
    out
}

#[test]
fn numbers_and_bytes_are_those_of_ggml_with_every_instruction_set() {
    assert_eq!(MADE.map(|made| made.0), Ggml::ALL);
    for (format, numbers, written) in MADE {
        let codec = format.codec();
        let block = codec.block();
        assert_eq!(codec.name(), format!("{format:?}"));
        assert_eq!(codec.writes(), written.is_some());
        let bytes = bytes(ELEMENTS / block.elements * block.bytes);
        for isa in Isa::available() {
            let decoded = decode(&*codec, isa, &bytes);
            let bits = |x: f32| if x.is_nan() { 0x7FC0_0000 } else { x.to_bits() };
            let found = digest(decoded.into_iter().flat_map(|x| bits(x).to_le_bytes()));
            assert_eq!(found, numbers, "{format:?} {}", isa.name());
            if let Some(expected) = written {
                let found = digest(encode(&*codec, isa, Overflow::Saturate, &values()));
                assert_eq!(found, expected, "{format:?} {}", isa.name());
            }
        }
    }
}

/// A block is what it is whatever stands beside it, and however many there are.
#[test]
fn blocks_do_not_depend_on_each_other() {
    let values = values();
    for format in Ggml::ALL {
        let codec = format.codec();
        if !codec.writes() {
            continue;
        }
        let block = codec.block();
        let all = encode(&*codec, Isa::best(), Overflow::Nan, &values);
        for (first, count) in [(0, 1), (1, 2), (2, 3), (3, 4), (5, 7), (31, 9)] {
            let elements = first * block.elements..(first + count) * block.elements;
            let part = encode(&*codec, Isa::best(), Overflow::Nan, &values[elements]);
            let bytes = first * block.bytes..(first + count) * block.bytes;
            assert!(part == all[bytes.clone()], "{format:?} {first} {count}");
            let again = decode(&*codec, Isa::best(), &part);
            let whole = decode(&*codec, Isa::best(), &all);
            assert_eq!(again, whole[first * block.elements..][..again.len()], "{format:?}");
        }
    }
}

/// What is not finite is NaN and takes its block with it, no other.
#[test]
fn what_is_not_finite_makes_its_block_nan() {
    for codec in Ggml::ALL.iter().map(|format| format.codec()).filter(|codec| codec.writes()) {
        let n = codec.block().elements;
        let good: Vec<f32> = values().into_iter().take(5 * n).collect();
        let clean =
            decode(&*codec, Isa::best(), &encode(&*codec, Isa::best(), Overflow::Nan, &good));
        assert!(clean.iter().all(|x| x.is_finite()));
        for other in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, n - 1, 2 * n + 7, 5 * n - 1] {
                let mut values = good.clone();
                values[at] = other;
                for overflow in [Overflow::Nan, Overflow::Saturate] {
                    for isa in Isa::available() {
                        let back = decode(&*codec, isa, &encode(&*codec, isa, overflow, &values));
                        for (i, (x, clean)) in back.iter().zip(&clean).enumerate() {
                            let hit = i / n == at / n;
                            assert_eq!(x.is_nan(), hit, "{} {other} {at} {i}", codec.name());
                            assert!(hit || x == clean, "{} {other} {at} {i}", codec.name());
                        }
                    }
                }
            }
        }
    }
}

/// Numbers beyond the scales of a format are the largest it has, or NaN, up to the largest of f32.
#[test]
fn what_is_too_large_is_the_largest_or_nan() {
    for codec in Ggml::ALL.iter().map(|format| format.codec()).filter(|codec| codec.writes()) {
        let (n, limit, isa) = (codec.block().elements, codec.overflow(), Isa::best());
        let back = |overflow, extreme: f32| {
            let mut values = vec![0.0; n];
            values[3] = extreme;
            decode(&*codec, isa, &encode(&*codec, isa, overflow, &values))
        };
        let near = |x: f32, y: f32| (x - y).abs() <= 0.02 * y.abs();
        for overflow in [Overflow::Nan, Overflow::Saturate] {
            let fits = back(overflow, -limit * 0.99);
            assert!(near(fits[3], -limit * 0.99), "{} {}", codec.name(), fits[3]);
        }
        for beyond in [-limit * 1.01, -limit * 2.0, -1e12, -1e30, f32::MIN] {
            let lost = back(Overflow::Nan, beyond);
            assert!(lost.iter().all(|x| x.is_nan()), "{} {beyond}", codec.name());
            let kept = back(Overflow::Saturate, beyond);
            assert!(kept.iter().all(|x| x.is_finite()), "{} {beyond}", codec.name());
            assert!(near(kept[3], -limit), "{} {beyond} {}", codec.name(), kept[3]);
        }
        for beyond in [1e12, f32::MAX] {
            assert!(back(Overflow::Nan, beyond).iter().all(|x| x.is_nan()), "{}", codec.name());
            let kept = back(Overflow::Saturate, beyond);
            assert!(kept[3].is_finite() && kept[3] >= limit * 0.9, "{} {}", codec.name(), kept[3]);
        }
    }
}

/// Zeros and what F16 has no scale for are zeros again.
#[test]
fn zeros_and_next_to_nothing_are_zeros() {
    for codec in Ggml::ALL.iter().map(|format| format.codec()).filter(|codec| codec.writes()) {
        for size in [0.0, -0.0, 1e-45, -1e-40, 1e-20] {
            let tiny: Vec<f32> = values().iter().map(|x| x.signum() * size).collect();
            for isa in Isa::available() {
                let back = decode(&*codec, isa, &encode(&*codec, isa, Overflow::Nan, &tiny));
                assert!(back.iter().all(|x| *x == 0.0), "{} {size}", codec.name());
            }
        }
    }
}

fn job(codec: &str, bytes: usize, op: &Value) -> Job {
    let models = [Model::new(1, 6, 512, 1)];
    let mut job = Job::new(&models, &json!([[rows(0, "w", 6)]]), op);
    job.plan["outputs"][0] =
        json!({"file": 0, "name": "w", "dtype": "U8", "shape": [6, bytes], "codec": codec});
    job
}

#[test]
fn a_job_writes_what_the_codec_does_and_refuses_what_is_only_read() {
    let values = Model::new(1, 6, 512, 1).values("w");
    for format in Ggml::ALL {
        let (codec, word) = (format.codec(), format!("{format:?}").to_lowercase());
        let block = codec.block();
        let job = job(&word, 512 / block.elements * block.bytes, &json!({"copy": {}}));
        if codec.writes() {
            let file = job.run().file;
            let expected = encode(&*codec, Isa::best(), Overflow::Saturate, &values);
            assert!(file.ends_with(&expected), "{word}");
        } else {
            let error = job.try_run().expect_err("is only read").to_string();
            let expected = format!("numbers for {}, which is only read and copied", codec.name());
            assert!(error.contains(&expected), "{error}");
        }
    }
}
