//! Number formats as sources and as outputs of whole jobs in memory: what a codec must see before it
//! writes is seen, whatever the threads and chunks, and what stands beside its output is written once.

use serde_json::{Value, json};
use submerge_core::dtype::{Float, Overflow};
use submerge_core::io::source::Memory;

use super::job::{Job, Model, rows};

const HEIGHT: usize = 90;
const COLUMNS: usize = 1440;

fn models() -> [Model; 2] {
    [1, 2].map(|seed| Model::new(seed, HEIGHT, COLUMNS, 2))
}

fn tensor(file: &[u8], name: &str) -> Vec<u8> {
    let read = safetensors::SafeTensors::deserialize(file).expect("a file");
    read.tensor(name).expect("a tensor").data().to_vec()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
}

fn linear() -> Value {
    json!({"linear": {"weights": [0.25, 2.0]}})
}

/// What [`linear`] makes of the two models.
fn merged(models: &[Model]) -> Vec<f32> {
    let (a, b) = (models[0].values("w"), models[1].values("w"));
    a.iter().zip(&b).map(|(a, b)| a * 0.25 + b * 2.0).collect()
}

/// A job that makes `output` of `w`, in as many units as `cuts` has ranges.
fn job(output: &Value, cuts: &[[usize; 2]], op: &Value) -> Job {
    let mut job = Job::new(&models(), &json!([]), op);
    job.plan["outputs"] = json!([output]);
    job.plan["units"] = units(0, cuts, op);
    job
}

fn units(output: usize, cuts: &[[usize; 2]], op: &Value) -> Value {
    let unit = |[start, end]: &[usize; 2]| {
        let term = |source: usize| json!([{"rows": {"source": source, "tensor": "w", "start": start, "end": end}}]);
        json!({"name": format!("w {start}"), "output": output, "start": start, "end": end,
            "operands": [term(0), term(1)], "op": op})
    };
    cuts.iter().map(unit).collect()
}

/// The same job with a tensor beside its output, in front of it or behind it.
fn with_side(mut job: Job, shape: &[usize], in_front: bool) -> Job {
    let side = json!({"file": 0, "name": "w.scale", "dtype": "F32", "shape": shape});
    let end = shape.first().copied().unwrap_or(1);
    let (payload, at) = if in_front { (1, 0) } else { (0, 1) };
    let unit = json!({"name": "w.scale", "output": at, "start": 0, "end": end, "operands": [],
        "op": {"beside": {"output": payload, "side": 0}}});
    let outputs = job.plan["outputs"].as_array_mut().expect("outputs");
    outputs.insert(at, side);
    let units = job.plan["units"].as_array_mut().expect("units");
    for unit in units.iter_mut() {
        unit["output"] = json!(payload);
    }
    units.insert(if in_front { 0 } else { units.len() }, unit);
    job
}

const WAYS: [(usize, usize, &str); 4] =
    [(1, 1 << 20, "auto"), (1, 1, "scalar"), (2, 1, "auto"), (5, 1 << 18, "auto")];

/// `Q8_0` as ggml's `quantize_row_q8_0_ref` has it.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let block = |block: &[f32]| {
        let d = block.iter().fold(0.0_f32, |d, x| d.max(x.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let mut bytes = half::f16::from_f32(d).to_le_bytes().to_vec();
        bytes.extend(block.iter().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
        bytes
    };
    values.chunks(32).flat_map(block).collect()
}

/// Made by the package gguf 0.19.0, `quantize(x, Q8_0)`, of the values below.
const GGUF: &str = "081c811ebd5af99835d47110af4ceb8a27c66302a13edd7a19b855f4922fce6b0aa9\
    410048e58222bf5ffc9a39d77613b150ee8b2bc86805a242df7f1cba59f79434d171\
    fb4b0eac4ae88625c362009e3cda7917b553f18f2ecc6a08a645e38120be5cfa9837\
    00000000000000000000000000000000000000000000000000000000000000000000\
    00009c3ad87615b351ef8e2cca6806a543e17f1dbc5af89634d3710fae4bea8826c5\
    003c7f0102fd00000000000000000000000000000000000000000000000000000000";

#[test]
fn blocks_are_those_of_ggml() {
    let scales = [1.0, 1e-3, 4096.0, 0.0, 1e-6, 0.0];
    let value = |i: u32| {
        let x = (i.wrapping_mul(0x9E37_79B1) >> 8) as f32 / 16_777_216.0 - 0.5;
        x * scales[i as usize / 32]
    };
    let mut values: Vec<f32> = (0..192).map(value).collect();
    values[160..164].copy_from_slice(&[127.0, 0.5, 1.5, -2.5]);
    let expected: Vec<u8> = (0..GGUF.len() / 2)
        .map(|i| u8::from_str_radix(&GGUF[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect();
    assert_eq!(q8_0(&values), expected, "the formula of these tests");
    let models = [Model::new(1, 6, 32, 1).with_w(&values)];
    let mut job = Job::new(&models, &json!([[rows(0, "w", 6)]]), &json!({"copy": {}}));
    job.plan["outputs"][0] =
        json!({"file": 0, "name": "w", "dtype": "U8", "shape": [6, 34], "codec": "q8_0"});
    assert_eq!(tensor(&job.run().file, "w"), expected);
}

#[test]
fn blocks_are_written_and_read_whatever_the_threads_and_chunks() {
    let bytes = COLUMNS / 32 * 34;
    let output = json!({"file": 0, "name": "w", "dtype": "U8", "shape": [HEIGHT, bytes],
        "codec": "q8_0"});
    let job = job(&output, &[[0, 1], [1, 53], [53, HEIGHT]], &linear());
    let expected = q8_0(&merged(&models()));
    let mut stats = None;
    for (threads, chunk, isa) in WAYS {
        let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
        let done = job.with(&how).run();
        assert_eq!(tensor(&done.file, "w"), expected, "{how}");
        let units: Vec<_> = done.report.units.iter().map(|unit| unit.stats.clone()).collect();
        assert_eq!(*stats.get_or_insert_with(|| units.clone()), units, "{how}");
    }
    let stats = stats.expect("a run");
    assert_eq!(stats.iter().map(|unit| unit.elements).sum::<u64>(), (HEIGHT * COLUMNS) as u64);
    assert!(stats.iter().all(|unit| unit.changed > 0 && unit.nonfinite_out == 0));
    // The file is a source in turn: any rows of it, beside plain ones.
    let blocks = expected.chunks_exact(34);
    let read: Vec<f32> = blocks
        .flat_map(|block| {
            let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
            block[2..].iter().map(move |q| f32::from(q.cast_signed()) * d)
        })
        .collect();
    let mut again = self::job(
        &json!({"file": 0, "name": "w", "dtype": "F32", "shape": [HEIGHT, COLUMNS]}),
        &[[0, 7], [7, HEIGHT]],
        &linear(),
    );
    replace_source(&mut again, job.run().file);
    for unit in again.plan["units"].as_array_mut().expect("units") {
        unit["operands"][0][0]["rows"]["codec"] = json!("q8_0");
    }
    let b = models()[1].values("w");
    let expected: Vec<f32> = read.iter().zip(&b).map(|(a, b)| a * 0.25 + b * 2.0).collect();
    for (threads, chunk, isa) in WAYS {
        let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
        assert_eq!(floats(&tensor(&again.with(&how).run().file, "w")), expected, "{how}");
    }
}

fn replace_source(job: &mut Job, file: Vec<u8>) {
    job.plan["sources"][0]["given"]["identity"]["size"] = json!(file.len());
    job.given[0].1 = std::sync::Arc::new(Memory::new("model 0", "v1", file.into()));
}

#[test]
fn blocks_that_are_not_computed_are_copied() {
    let bytes = COLUMNS / 32 * 34;
    let output = json!({"file": 0, "name": "w", "dtype": "U8", "shape": [HEIGHT, bytes],
        "codec": "q8_0"});
    let made = job(&output, &[[0, HEIGHT]], &linear()).run().file;
    let mut copy = job(&output, &[[0, 5], [5, HEIGHT]], &json!({"copy": {}}));
    replace_source(&mut copy, made.clone());
    for unit in copy.plan["units"].as_array_mut().expect("units") {
        unit["operands"].as_array_mut().expect("operands").truncate(1);
        unit["operands"][0][0]["rows"]["codec"] = json!("q8_0");
    }
    let done = copy.run();
    assert_eq!(done.file, made);
    assert_eq!(done.report.units[0].stats.elements, (5 * COLUMNS) as u64);
}

/// FP8 under one scale, or one for each row, and the scales.
fn scaled(values: &[f32], every: usize) -> (Vec<u8>, Vec<f32>) {
    let float = Float::F8E4M3;
    let scales: Vec<f32> = values
        .chunks(every)
        .map(|group| group.iter().fold(0.0_f32, |m, x| m.max(x.abs())) / 448.0)
        .collect();
    let element =
        |(i, x): (usize, &f32)| float.encode(Overflow::Saturate, x / scales[i / every]) as u8;
    (values.iter().enumerate().map(element).collect(), scales)
}

fn fp8(codec: &str) -> Value {
    json!({"file": 0, "name": "w", "dtype": "F8_E4M3", "shape": [HEIGHT, COLUMNS], "codec": codec})
}

/// The scale is of the output, not of a unit: each is observed before the first is written, by
/// formulas of elements, of whole units and of whole matrices.
#[test]
fn scales_follow_the_largest_of_all_units() {
    let cuts = [[0, 30], [30, 60], [60, HEIGHT]];
    let plain = json!({"file": 0, "name": "w", "dtype": "F32", "shape": [HEIGHT, COLUMNS]});
    let matrix =
        json!({"matrix": {"weights": [1.0], "lambda": 1.0, "apart": false, "make": {"rank": 3}}});
    let ops = [linear(), json!({"combine": {"slerp": {"alpha": 0.3}}}), matrix];
    for op in &ops {
        let values = floats(&tensor(&job(&plain, &cuts, op).run().file, "w"));
        for (codec, every, shape) in
            [("scaled", values.len(), vec![]), ("scaled_rows", COLUMNS, vec![HEIGHT, 1])]
        {
            let (elements, scales) = scaled(&values, every);
            for in_front in [false, true] {
                let job = with_side(job(&fp8(codec), &cuts, op), &shape, in_front);
                let mut bytes = None;
                for (threads, chunk, isa) in WAYS {
                    let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
                    let done = job.with(&how).run();
                    assert_eq!(tensor(&done.file, "w"), elements, "{op} {codec} {how}");
                    assert_eq!(
                        floats(&tensor(&done.file, "w.scale")),
                        scales,
                        "{op} {codec} {how}"
                    );
                    assert_eq!(*bytes.get_or_insert_with(|| done.file.clone()), done.file);
                }
            }
        }
    }
}

#[test]
fn what_was_scaled_is_read_with_its_scales() {
    let cuts = [[0, 41], [41, HEIGHT]];
    let values = merged(&models());
    for (codec, every, shape) in
        [("scaled", values.len(), vec![]), ("scaled_rows", COLUMNS, vec![HEIGHT, 1])]
    {
        let file = with_side(job(&fp8(codec), &cuts, &linear()), &shape, true).run().file;
        let plain = json!({"file": 0, "name": "w", "dtype": "F32", "shape": [HEIGHT, COLUMNS]});
        let mut again = job(&plain, &cuts, &json!({"copy": {}}));
        replace_source(&mut again, file);
        for unit in again.plan["units"].as_array_mut().expect("units") {
            unit["operands"].as_array_mut().expect("operands").truncate(1);
            let rows = &mut unit["operands"][0][0]["rows"];
            rows["codec"] = json!(codec);
            rows["sides"] = json!([{"source": 0, "tensor": "w.scale"}]);
        }
        let (elements, scales) = scaled(&values, every);
        let value =
            |(i, bits): (usize, &u8)| Float::F8E4M3.decode(u32::from(*bits)) * scales[i / every];
        let expected: Vec<f32> = elements.iter().enumerate().map(value).collect();
        let stats = again.run();
        assert_eq!(floats(&tensor(&stats.file, "w")), expected, "{codec}");
    }
}

/// A unit that is not finite, and one that is zero: the scale is of the others, or 1.
#[test]
fn scales_are_of_finite_values_and_of_zeros_alone_one() {
    let mut values = vec![0.0_f32; 4 * 3];
    values[3..9].copy_from_slice(&[f32::INFINITY, -2.0, 0.5, f32::NAN, 1e-42, -1e-42]);
    let models = [Model::new(1, 4, 3, 1).with_w(&values)];
    let mut job = Job::new(&models, &json!([[rows(0, "w", 4)]]), &json!({"copy": {}}));
    job.plan["outputs"][0] = json!({"file": 0, "name": "w", "dtype": "F8_E4M3", "shape": [4, 3], "codec": "scaled_rows"});
    let done = with_side(job, &[4], true).run();
    let scales = floats(&tensor(&done.file, "w.scale"));
    assert_eq!(scales, [1.0, 2.0 / 448.0, f32::MIN_POSITIVE, 1.0]);
    let elements = tensor(&done.file, "w");
    assert_eq!(elements[..6], [0, 0, 0, 0x7E, 0xFE, 0x6E]);
    assert_eq!((elements[6], &elements[9..]), (0x7F, &[0, 0, 0][..]));
    let stats = &done.report.units.iter().find(|unit| unit.unit == 1).expect("the payload").stats;
    assert_eq!((stats.nonfinite_out, stats.overflowed), (1, 0));
}

#[test]
fn what_does_not_fit_a_codec_is_refused() {
    let cuts = [[0, HEIGHT]];
    let refused = |job: &Job, expected: &str| {
        let error = job.try_run().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    let q8 = |dtype: &str, bytes: usize| json!({"file": 0, "name": "w", "dtype": dtype, "shape": [HEIGHT, bytes], "codec": "q8_0"});
    refused(
        &job(&q8("U8", 1000), &cuts, &linear()),
        "plan output `w`: rows of 1000 bytes, expected whole blocks of 34 bytes of Q8_0",
    );
    refused(
        &job(&q8("U8", 34), &cuts, &linear()),
        "elements in a row differ, expected 32, got 1440",
    );
    refused(
        &job(&q8("F32", 34), &cuts, &linear()),
        "a codec of another dtype, expected U8, got F32",
    );
    let mut source = job(&q8("U8", COLUMNS / 32 * 34), &cuts, &linear());
    source.plan["units"][0]["operands"][0][0]["rows"]["codec"] = json!("scaled");
    refused(&source, "`w`: a codec of another dtype, expected F8_E4M3 or F8_E5M2, got F32");
    // What stands beside it.
    refused(
        &job(&fp8("scaled"), &cuts, &linear()),
        "plan output `w`: tensors [] beside it are filled, expected each of 1",
    );
    let good = || with_side(job(&fp8("scaled"), &cuts, &linear()), &[], true);
    good().run();
    refused(
        &with_side(job(&fp8("scaled"), &cuts, &linear()), &[2], true),
        "bytes of `w.scale` differ, expected 4, got 8",
    );
    refused(
        &with_side(job(&fp8("plain"), &cuts, &linear()), &[], true),
        "tensors [0] beside it are filled, expected each of 0",
    );
    let changed = |place: &str, value: Value| {
        let mut job = good();
        *job.plan.pointer_mut(place).expect("a place") = value;
        job
    };
    refused(
        &changed("/units/0/op/beside/output", json!(2)),
        "plan unit `w.scale`: beside output 2, expected one of 2",
    );
    refused(&changed("/units/0/operands", json!([[rows(0, "w", 1)]])), "elements in a row differ");
    let mut apart = good();
    let more = json!({"file": 0, "name": "v", "dtype": "F32", "shape": [HEIGHT, COLUMNS]});
    apart.plan["outputs"].as_array_mut().expect("outputs").insert(1, more);
    let mut between = units(1, &cuts, &linear())[0].clone();
    between["name"] = json!("v");
    let all = apart.plan["units"].as_array_mut().expect("units");
    all[1]["output"] = json!(2);
    all[0]["op"]["beside"]["output"] = json!(2);
    all.insert(1, between);
    refused(&apart, "plan output `w`: not beside the tensors its codec wants");
}

/// What a codec sees and what stands beside its output are counted: the smallest budget is enough.
#[test]
fn the_smallest_budget_counts_what_is_seen() {
    let cuts = [[0, HEIGHT]];
    let job = with_side(job(&fp8("scaled_rows"), &cuts, &linear()), &[HEIGHT], false);
    let small = json!({"threads": 2, "chunk": 1, "memory_budget": 1});
    let refused = job.with(&small).try_run().expect_err("too little").to_string();
    let words: Vec<&str> = refused.split(' ').collect();
    let least = words.iter().position(|word| *word == "least").expect("a number");
    let least: u64 = words[least + 1].parse().expect("a number");
    let done = job.with(&json!({"threads": 2, "chunk": 1, "memory_budget": least})).run();
    assert_eq!(done.report.working_bytes, least);
    job.with(&json!({"memory_budget": least - 1})).try_run().expect_err("a byte too few");
}

/// What tells of a format is a text in the file, whatever the chunks; what is no such text is refused.
#[test]
fn a_text_is_a_tensor_of_its_bytes() {
    let text = json!({"text": {"text": "{\"format\": \"\u{e9}\"}"}});
    let plain = json!({"file": 0, "name": "w", "dtype": "F32", "shape": [HEIGHT, COLUMNS]});
    let mut job = job(&plain, &[[0, HEIGHT]], &linear());
    let marker = json!({"file": 0, "name": "w.said", "dtype": "U8", "shape": [16]});
    job.plan["outputs"].as_array_mut().expect("outputs").push(marker);
    let unit =
        json!({"name": "w.said", "output": 1, "start": 0, "end": 16, "operands": [], "op": text});
    job.plan["units"].as_array_mut().expect("units").push(unit);
    for (threads, chunk, isa) in WAYS {
        let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
        let said = tensor(&job.with(&how).run().file, "w.said");
        assert_eq!(said, "{\"format\": \"\u{e9}\"}".as_bytes(), "{how}");
    }
    let mut refused = |place: &str, value: Value, expected: &str| {
        let before = job.plan.pointer(place).expect("a place").clone();
        *job.plan.pointer_mut(place).expect("a place") = value;
        let error = job.try_run().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        *job.plan.pointer_mut(place).expect("a place") = before;
    };
    let rows = json!([[rows(0, "w", 16)]]);
    refused("/units/1/operands", rows, "elements in a row differ");
    let longer = json!({"text": "0123456789abcdefg"});
    refused("/units/1/op/text", longer, "a text of 17 bytes, expected 16 elements of U8");
    refused("/outputs/1/dtype", json!("I8"), "a text of 16 bytes, expected 16 elements of I8");
}
