//! Codes with scales beside them, from files that are not what a plan says.

use serde_json::{Value, json};
use submerge_core::dtype::{Dtype, Float};
use submerge_core::format::safetensors::{Tensor, encode};

use super::job::{Done, Job, Model, rows};
use super::scales::replace_source;

type Part<'a> = (&'a str, Vec<u64>, Vec<u8>);

fn file(parts: &[Part]) -> Vec<u8> {
    let (mut tensors, mut data): (Vec<Tensor>, Vec<u8>) = Default::default();
    for (at, (dtype, shape, bytes)) in parts.iter().enumerate() {
        let (start, dtype) = (data.len() as u64, Dtype::parse(dtype).expect("a dtype"));
        data.extend(bytes);
        let (name, end) = (format!("t{at}"), data.len() as u64);
        tensors.push(Tensor { name, dtype, shape: shape.clone(), start, end });
    }
    let mut file = encode(&[], &tensors).expect("a header");
    file.extend(data);
    file
}

fn zeros<'a>(dtype: &'a str, shape: &[u64]) -> Part<'a> {
    let elements: u64 = shape.iter().product();
    let bits = Dtype::parse(dtype).expect("a dtype").bits();
    (dtype, shape.to_vec(), vec![0; (elements * bits / 8) as usize])
}

fn floats<'a>(shape: &[u64], values: &[f32]) -> Part<'a> {
    ("F32", shape.to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Reads the first part behind `spec`, the others beside it, as so many rows and columns.
fn try_read(spec: &Value, parts: &[Part], shape: [usize; 2]) -> submerge_core::error::Result<Done> {
    let mut job = Job::new(&[Model::new(1, shape[0], shape[1], 1)], &json!([]), &json!({}));
    replace_source(&mut job, file(parts));
    let mut term = rows(0, "t0", shape[0]);
    term["rows"]["codec"] = spec.clone();
    let beside = (1..parts.len()).map(|i| json!({"source": 0, "tensor": format!("t{i}")}));
    term["rows"]["sides"] = beside.collect();
    job.plan["units"][0]["operands"] = json!([[term]]);
    job.plan["units"][0]["op"] = json!({"copy": {}});
    job.try_run()
}

fn refused(spec: &Value, parts: &[Part], shape: [usize; 2], expected: &str) {
    let error = try_read(spec, parts, shape).expect_err(expected).to_string();
    assert!(error.contains("plan unit `w`: "), "{error}");
    assert!(error.contains(expected), "expected {expected}, got {error}");
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn what_stands_beside_is_checked_before_anything_is_read() {
    let e4m3 = || zeros("F8_E4M3", &[64, 64]);
    let f32s = |shape: &[u64]| zeros("F32", shape);
    let one = |spec: &str, parts: &[Part], expected: &str| {
        refused(&json!(spec), parts, [64, 64], expected);
    };
    for spec in ["scaled", "scaled_rows"] {
        one(spec, &[e4m3()], "tensors beside the rows differ, expected 1, got 0");
        one(spec, &[e4m3(), f32s(&[1]), f32s(&[1])], "expected 1, got 2");
        one(
            spec,
            &[e4m3(), zeros("I32", &[1])],
            "`t1` beside it, expected F32, F16 or BF16, got I32",
        );
        one(spec, &[e4m3(), zeros("F64", &[64])], "expected F32, F16 or BF16, got F64");
        one(spec, &[zeros("BF16", &[64, 64]), f32s(&[1])], "expected F8_E4M3 or F8_E5M2, got BF16");
    }
    one("scaled", &[e4m3(), f32s(&[2])], "bytes of `t1` differ, expected 4, got 8");
    one("scaled", &[e4m3(), f32s(&[0])], "bytes of `t1` differ, expected 4, got 0");
    one("scaled", &[e4m3(), zeros("BF16", &[2])], "bytes of `t1` differ, expected 2, got 4");
    one("scaled_rows", &[e4m3(), f32s(&[63, 1])], "bytes of `t1` differ, expected 256, got 252");
    one("scaled_rows", &[e4m3(), f32s(&[64, 2])], "bytes of `t1` differ, expected 256, got 512");
    let int8 = || zeros("I8", &[64, 64]);
    one("int8", &[zeros("U8", &[64, 64]), f32s(&[])], "expected I8, got U8");
    one("int8_rows", &[int8(), f32s(&[])], "bytes of `t1` differ, expected 256, got 4");
    one("llm_int8", &[int8(), f32s(&[])], "bytes of `t1` differ, expected 256, got 4");
    one("llm_int8", &[int8(), zeros("BF16", &[64])], "expected F32, got BF16");
    one("int8_convrot", &[int8(), f32s(&[64])], "rows of 64, expected whole groups of 256");
    refused(
        &json!({"int8_convrot": {"rotated": 32}}),
        &[int8(), f32s(&[64])],
        [64, 64],
        "groups of 32, expected one of [4, 16, 64, 256, 1024]",
    );
    let powers = |shape: &[u64]| zeros("F8_E8M0", shape);
    one("mxfp8", &[e4m3(), powers(&[64, 2])], "bytes of `t1` differ, expected 512, got 128");
    one("mxfp8", &[e4m3(), zeros("F8_E4M3", &[128, 4])], "expected F8_E8M0 or U8, got F8_E4M3");
    one(
        "mxfp8",
        &[zeros("F8_E5M2", &[64, 64]), powers(&[128, 4])],
        "expected F8_E4M3, got F8_E5M2",
    );
    let odd = [zeros("F8_E4M3", &[64, 48]), powers(&[128, 4])];
    refused(&json!("mxfp8"), &odd, [64, 48], "64 rows of 48, expected multiples of 32 columns");
    let four = || zeros("U8", &[64, 32]);
    for (spec, shape) in [("nvfp4", [128, 4]), ("nvfp4_bfl", [64, 4])] {
        let scales = || zeros("F8_E4M3", &shape);
        one(spec, &[four(), scales()], "tensors beside the rows differ, expected 2, got 1");
        one(spec, &[four(), scales(), f32s(&[2])], "bytes of `t2` differ, expected 4, got 8");
        one(spec, &[four(), zeros("F8_E4M3", &[63, 4]), f32s(&[])], "bytes of `t1` differ");
        one(spec, &[four(), zeros("I8", &shape), f32s(&[])], "expected F8_E4M3 or U8, got I8");
        one(
            spec,
            &[zeros("U8", &[64, 33]), scales(), f32s(&[])],
            "64 rows of 66, expected multiples of 16",
        );
    }
}

#[test]
fn what_bitsandbytes_says_of_itself_is_checked() {
    let book = || zeros("F32", &[16]);
    let flat = |n: u64| zeros("U8", &[n, 1]);
    let spec = |shape: Value| json!({"bnb4": {"shape": shape}});
    let good = [flat(2048), zeros("F32", &[64]), book()];
    try_read(&spec(json!([64, 64])), &good, [64, 64]).expect("all fits");
    let of =
        |spec: &Value, parts: &[Part], expected: &str| refused(spec, parts, [64, 64], expected);
    of(&spec(json!([64, 66])), &good, "2048 bytes, expected 2112 of shape [64, 66]");
    of(&spec(json!([1_u64 << 40, 1_u64 << 40])), &good, "a shape beyond 2^64 elements");
    of(&spec(json!([])), &good, "2048 bytes, expected 1 of shape []");
    let odd = [flat(2080), zeros("F32", &[65]), book()];
    of(&spec(json!([64, 65])), &odd, "rows of 65 elements of 4 bits, expected an even number");
    for block in [0, 1, 63] {
        let spec = json!({"bnb4": {"shape": [64, 64], "block": block}});
        of(&spec, &good, &format!("blocks of {block}, nested in 1, expected an even number"));
    }
    of(&spec(json!([64, 64])), &[flat(2048), zeros("F32", &[63]), book()], "bytes of `t1` differ");
    of(
        &spec(json!([64, 64])),
        &[flat(2048), zeros("F32", &[64]), zeros("F32", &[15])],
        "bytes of `t2` differ",
    );
    of(&spec(json!([64, 64])), &[flat(2048), zeros("U8", &[64]), book()], "expected F32, got U8");
    let nested = |blocks: u64| json!({"bnb4": {"shape": [64, 64], "nested": {"blocks": blocks, "offset": 0.5}}});
    let parts = |outer: u64| {
        [flat(2048), zeros("U8", &[64]), book(), zeros("F32", &[outer]), zeros("F32", &[256])]
    };
    try_read(&nested(256), &parts(1), [64, 64]).expect("all fits");
    try_read(&nested(48), &parts(2), [64, 64]).expect("a short block fits");
    of(&nested(256), &parts(2), "bytes of `t3` differ, expected 4, got 8");
    of(&nested(0), &parts(1), "blocks of 64, nested in 0");
    of(&nested(256), &good, "tensors beside the rows differ, expected 4, got 2");
    let error =
        try_read(&json!("bnb4"), &good, [64, 64]).expect_err("a shape is needed").to_string();
    assert!(error.contains("plan: not in the expected form"), "{error}");
}

/// A scale is a number like others: what it makes of codes is seen, and counted where it is none.
#[test]
fn odd_scales_are_multiplied_with() {
    let codes: Vec<u8> = vec![1, 0xFF, 100, 0x80];
    for (scale, lost) in [(-0.5, 0), (0.0, 0), (f32::NAN, 4), (f32::INFINITY, 4), (1e-42, 0)] {
        let parts = [("I8", vec![1, 4], codes.clone()), floats(&[1], &[scale])];
        let done = try_read(&json!("int8_rows"), &parts, [1, 4]).expect("all fits");
        for (value, code) in done.values().iter().zip([1.0, -1.0, 100.0, -128.0]) {
            let expected = code * scale;
            assert!(
                *value == expected || value.is_nan() && expected.is_nan(),
                "{value} {expected}"
            );
        }
        assert_eq!(done.report.units[0].stats.nonfinite_out, lost, "{scale}");
        let fp8 = [("F8_E4M3", vec![1, 4], codes.clone()), floats(&[], &[scale])];
        let done = try_read(&json!("scaled"), &fp8, [1, 4]).expect("all fits");
        for (value, code) in done.values().iter().zip(&codes) {
            let expected = Float::F8E4M3.decode(u32::from(*code)) * scale;
            assert!(
                *value == expected || value.is_nan() && expected.is_nan(),
                "{value} {expected}"
            );
        }
    }
}
