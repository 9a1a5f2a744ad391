//! Codes with scales beside them: through whatever threads, chunks and rows, and rounded at random. That the numbers are those of the formats, `tests/oracles` tells.

use std::sync::Arc;

use serde_json::{Value, json};
use submerge_core::io::source::Memory;

use super::job::{Job, Model, rows};

const ROWS: usize = 96;
const COLUMNS: usize = 1280;

/// A codec that can be written: its spec, its payload's dtype and bytes of a row, and the tensors beside it.
struct Format {
    spec: Value,
    dtype: &'static str,
    row: usize,
    sides: Vec<(&'static str, Vec<usize>)>,
}

fn formats() -> Vec<Format> {
    let of = |spec: Value, dtype, row, sides| Format { spec, dtype, row, sides };
    let whole = || vec![("F32", vec![])];
    let each = || vec![("F32", vec![ROWS, 1])];
    let seed = |word: &str| json!({word: {"seed": 7}});
    let (tiles, powers) = (vec![128, COLUMNS / 16], vec![128, COLUMNS / 32]);
    let plain = vec![ROWS, COLUMNS / 16];
    vec![
        of(json!("scaled"), "F8_E4M3", COLUMNS, whole()),
        of(json!("scaled"), "F8_E5M2", COLUMNS, whole()),
        of(json!("scaled_rows"), "F8_E4M3", COLUMNS, each()),
        of(json!("int8"), "I8", COLUMNS, whole()),
        of(json!("int8_rows"), "I8", COLUMNS, each()),
        of(json!("int8_convrot"), "I8", COLUMNS, each()),
        of(json!({"int8_convrot": {"rotated": 64}}), "I8", COLUMNS, each()),
        of(json!("mxfp8"), "F8_E4M3", COLUMNS, vec![("F8_E8M0", powers.clone())]),
        of(json!("nvfp4"), "U8", COLUMNS / 2, vec![("F8_E4M3", tiles), ("F32", vec![])]),
        of(json!("nvfp4_bfl"), "U8", COLUMNS / 2, vec![("F8_E4M3", plain), ("F32", vec![])]),
        of(seed("plain"), "F8_E4M3", COLUMNS, vec![]),
        of(seed("plain"), "F8_E5M2", COLUMNS, vec![]),
        of(seed("scaled"), "F8_E4M3", COLUMNS, whole()),
        of(seed("scaled_rows"), "F8_E5M2", COLUMNS, each()),
        of(seed("int8"), "I8", COLUMNS, whole()),
        of(seed("int8_rows"), "I8", COLUMNS, each()),
        of(seed("int8_convrot"), "I8", COLUMNS, each()),
        of(seed("mxfp8"), "F8_E4M3", COLUMNS, vec![("F8_E8M0", powers)]),
    ]
}

impl Format {
    /// A job that writes the sum of two models in this format, in units of rows.
    fn job(&self, models: &[Model], cuts: &[[usize; 2]], in_front: bool) -> Job {
        let mut job = Job::new(models, &json!([]), &json!({}));
        let (count, payload) = (self.sides.len(), if in_front { self.sides.len() } else { 0 });
        let mut outputs: Vec<Value> = self
            .sides
            .iter()
            .enumerate()
            .map(|(i, (dtype, shape))| json!({"file": 0, "name": format!("s{i}"), "dtype": dtype, "shape": shape}))
            .collect();
        outputs.insert(
            payload,
            json!({"file": 0, "name": "w", "dtype": self.dtype, "shape": [ROWS, self.row], "codec": self.spec}),
        );
        let unit = |[start, end]: &[usize; 2]| {
            let term = |i: usize| json!([{"rows": {"source": i, "tensor": "w", "start": start, "end": end}}]);
            let operands: Vec<_> = (0..models.len()).map(term).collect();
            let weights = &[0.25, 2.0][..models.len()];
            json!({"name": format!("w {start}"), "output": payload, "start": start, "end": end,
                "operands": operands, "op": {"linear": {"weights": weights}}})
        };
        let sides = (0..count).map(|i| {
            let end = self.sides[i].1.first().copied().unwrap_or(1);
            let output = if in_front { i } else { i + 1 };
            json!({"name": format!("s{i}"), "output": output, "start": 0, "end": end, "operands": [],
                "op": {"beside": {"output": payload, "side": i}}})
        });
        let (sides, units): (Vec<_>, Vec<_>) = (sides.collect(), cuts.iter().map(unit).collect());
        job.plan["outputs"] = json!(outputs);
        job.plan["units"] = if in_front { [sides, units] } else { [units, sides] }.concat().into();
        job
    }

    /// What a file of it says, read in two units.
    fn read(&self, file: Vec<u8>) -> Vec<f32> {
        let mut job = Job::new(&[Model::new(1, ROWS, COLUMNS, 1)], &json!([]), &json!({}));
        replace_source(&mut job, file);
        let sides: Vec<_> = (0..self.sides.len())
            .map(|i| json!({"source": 0, "tensor": format!("s{i}")}))
            .collect();
        let unit = |start: usize, end: usize| {
            let rows = json!({"source": 0, "tensor": "w", "start": start, "end": end,
                "codec": self.spec, "sides": sides});
            json!({"name": format!("w {start}"), "output": 0, "start": start, "end": end,
                "operands": [[{"rows": rows}]], "op": {"copy": {}}})
        };
        job.plan["units"] = json!([unit(0, 41), unit(41, ROWS)]);
        let mut all = None;
        for (threads, chunk, isa) in WAYS {
            let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
            let values: Vec<u32> =
                job.with(&how).run().values().iter().map(|x| x.to_bits()).collect();
            assert_eq!(*all.get_or_insert_with(|| values.clone()), values, "{} {how}", self.spec);
        }
        all.expect("a run").into_iter().map(f32::from_bits).collect()
    }
}

pub(super) fn replace_source(job: &mut Job, file: Vec<u8>) {
    job.plan["sources"][0]["given"]["identity"]["size"] = json!(file.len());
    job.given[0].1 = Arc::new(Memory::new("model 0", "v1", file.into()));
    assert_eq!(
        job.given[0].1.identity().size(),
        job.plan["sources"][0]["given"]["identity"]["size"]
    );
}

const WAYS: [(usize, usize, &str); 4] =
    [(1, 1 << 20, "auto"), (1, 1, "scalar"), (2, 1, "auto"), (5, 1 << 18, "auto")];

fn models() -> [Model; 2] {
    [1, 2].map(|seed| Model::new(seed, ROWS, COLUMNS, 1))
}

fn merged() -> Vec<f32> {
    let [a, b] = models().map(|model| model.values("w"));
    a.iter().zip(&b).map(|(a, b)| a * 0.25 + b * 2.0).collect()
}

#[test]
fn every_format_is_written_and_read_whatever_the_threads_chunks_and_rows() {
    let (models, expected) = (models(), merged());
    let length =
        |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for format in formats() {
        for in_front in [false, true] {
            let cuts = [[0, 1], [1, 53], [53, ROWS]];
            let job = format.job(&models, &cuts, in_front);
            let whole = format.job(&models, &[[0, ROWS]], in_front).run().file;
            for (threads, chunk, isa) in WAYS {
                let how = json!({"threads": threads, "chunk": chunk, "isa": isa});
                assert_eq!(job.with(&how).run().file, whole, "{} {how}", format.spec);
            }
            let read = format.read(whole);
            let error = length(&mut read.iter().zip(&expected).map(|(a, b)| a - b));
            let error = error / length(&mut expected.iter().copied());
            let random = if format.spec.to_string().contains("seed") { 1.5 } else { 1.0 };
            let allowed = match (format.dtype, format.spec.to_string().contains("int8")) {
                ("U8", _) => 0.12,
                ("F8_E5M2", _) => 0.06,
                (_, false) => 0.03,
                (_, true) => 0.012,
            };
            assert!(error > 0.0 && error < allowed * random, "{} {error}", format.spec);
        }
    }
}

#[test]
fn zeros_are_zeros_and_what_is_no_number_is_seen() {
    let zeros = Model::new(1, ROWS, COLUMNS, 1).with_w(&vec![0.0; ROWS * COLUMNS]);
    for format in formats() {
        let file = format.job(std::slice::from_ref(&zeros), &[[0, ROWS]], true).run().file;
        assert!(format.read(file).iter().all(|x| *x == 0.0), "{}", format.spec);
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = merged();
        values[5 * COLUMNS + 3] = bad;
        let model = Model::new(1, ROWS, COLUMNS, 1).with_w(&values);
        for format in formats() {
            let done = format.job(std::slice::from_ref(&model), &[[0, ROWS]], true).run();
            let saturates = bad.is_infinite() && format.dtype.starts_with("F8");
            let unit = done.report.units.iter().find(|unit| unit.stats.nonfinite.len() == 1);
            let stats = &unit.expect("the payload").stats;
            assert_eq!(stats.nonfinite_out == 0, saturates, "{} {bad}", format.spec);
            let read = format.read(done.file);
            assert_eq!(read[5 * COLUMNS + 3].is_finite(), saturates, "{} {bad}", format.spec);
            let lost = read.iter().filter(|x| !x.is_finite()).count() as u64;
            assert_eq!(lost, stats.nonfinite_out, "{} {bad}", format.spec);
        }
    }
}

#[test]
fn seeds_decide_and_their_noise_is_fair() {
    let words = ["plain", "scaled", "scaled_rows", "int8", "int8_rows", "mxfp8"];
    // Between two codes of every format; of subnormal FP8 too.
    for value in [0.307_f32, -0.7043, 0.000_9, 1.013] {
        let mut values = vec![value; ROWS * COLUMNS];
        values.iter_mut().step_by(32).for_each(|x| *x = 1.27); // every scale is known
        let model = Model::new(1, ROWS, COLUMNS, 1).with_w(&values);
        for word in words {
            let made = |seed: u64| {
                let format =
                    formats().into_iter().find(|format| format.spec == json!({word: {"seed": 7}}));
                let mut format = format.expect("one of them");
                format.spec[word]["seed"] = json!(seed);
                let mut job = format.job(std::slice::from_ref(&model), &[[0, ROWS]], true);
                for unit in job.plan["units"].as_array_mut().expect("units") {
                    if unit["name"] == "w 0" {
                        unit["op"] = json!({"copy": {}});
                    }
                }
                let file = job.run().file;
                (format.read(file.clone()), file)
            };
            let ((read, file), (_, other), (_, again)) = (made(1), made(2), made(1));
            assert_eq!(file, again, "{word}");
            assert_ne!(file, other, "{word}");
            let kept: Vec<f64> = read
                .iter()
                .enumerate()
                .filter(|(i, _)| i % 32 != 0)
                .map(|(_, x)| f64::from(*x))
                .collect();
            let low = kept.iter().copied().fold(f64::INFINITY, f64::min);
            let high = kept.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!(kept.iter().all(|x| *x == low || *x == high), "{word} {value}: two neighbours");
            let value = f64::from(value);
            assert!(low < value && value < high, "{word} {low} {value} {high}");
            let mean = kept.iter().sum::<f64>() / kept.len() as f64;
            let share = (value - low) / (high - low);
            let spread = (high - low) * (share * (1.0 - share) / kept.len() as f64).sqrt();
            assert!((mean - value).abs() < 5.0 * spread, "{word} {value} {mean} {spread}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let model = [Model::new(1, 24, 48, 1)];
    let refused = |codec: Value, dtype: &str, shape: [usize; 2], expected: &str| {
        let mut job = Job::new(&model, &json!([[rows(0, "w", 24)]]), &json!({"copy": {}}));
        job.plan["outputs"][0] =
            json!({"file": 0, "name": "w", "dtype": dtype, "shape": shape, "codec": codec});
        let error = job.try_run().expect_err(expected).to_string();
        assert!(error.contains("plan output `w`: ") && error.contains(expected), "{error}");
        assert!(error.contains("hint: "), "{error}");
    };
    let read_only = "read only, expected a format that can be written";
    refused(json!("llm_int8"), "I8", [24, 48], read_only);
    refused(json!({"bnb4": {"shape": [24, 48]}}), "U8", [576, 1], read_only);
    refused(json!("mxfp8"), "F8_E4M3", [24, 48], "24 rows of 48, expected multiples of 32 of both");
    refused(json!("nvfp4"), "U8", [24, 24], "24 rows of 48, expected multiples of 16 of both");
    refused(json!("nvfp4"), "U8", [24, 25], "24 rows of 50, expected multiples of 16 of both");
    refused(json!("int8_convrot"), "I8", [24, 48], "rows of 48, expected whole groups of 256");
    refused(
        json!({"plain": {"seed": 1}}),
        "BF16",
        [24, 48],
        "expected F8_E4M3 or F8_E5M2, got BF16",
    );
    let mut job = Job::new(&model, &json!([[rows(0, "w", 24)]]), &json!({"copy": {}}));
    for codec in
        [json!("q9_9"), json!({"scaled": {"sed": 1}}), json!({"scaled": {"seed": -1}}), json!(3)]
    {
        job.plan["outputs"][0]["codec"] = codec;
        let error = job.try_run().expect_err("no codec").to_string();
        assert!(error.contains("plan: not in the expected form"), "{error}");
    }
}
