//! Whole jobs with every rule that passes over a unit or takes it by rows: how a job is run changes no bit, and
//! units that have no direction, no length or no finite value come out as they should.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use submerge_core::dtype::Dtype;
use submerge_core::exec::execute;
use submerge_core::format::safetensors::{Tensor, encode};
use submerge_core::io::source::FileIdentity;
use submerge_core::simd::Isa;

/// The tensors of every model: several cells of the grid, rows beyond a cell, vectors, one element.
const TENSORS: [(&str, &[u64]); 8] = [
    ("equal", &[40, 50]),
    ("line", &[3000]),
    ("matrix", &[300, 1000]),
    ("none", &[0, 5]),
    ("odd", &[70, 1030]),
    ("one", &[1]),
    ("scalar", &[]),
    ("wide", &[3, 70_000]),
];

/// Every rule with how many operands it takes.
fn rules() -> Vec<(&'static str, Value, usize)> {
    let median = json!({"weights": [1.0, 2.0, 1.0], "max_iter": 100, "tol": 1e-12, "eps": 1e-9});
    let multislerp = |base, weights: &[f64]| json!({"multislerp": {"weights": weights, "normalize": true, "eps": 1e-8, "base": base}});
    let both = [
        (json!({"slerp": {"alpha": 0.3}}), 2),
        (json!({"nuslerp": {"weights": [1.0, 2.0], "base": false}}), 2),
        (json!({"nuslerp": {"weights": [1.0, 2.0], "base": true}}), 3),
        (multislerp(false, &[1.0, 2.0, 1.0]), 3),
        (multislerp(true, &[1.0, 2.0]), 3),
        (json!({"karcher": {"max_iter": 10, "tol": 1e-5}}), 3),
        (json!({"model_stock": {"floor": 1e-6}}), 3),
        (json!({"orthogonal": {"alpha": 0.7, "base": true}}), 3),
        (json!({"geometric_median": median}), 3),
        (json!({"norm_lerp": {"alpha": 0.3}}), 2),
        (json!({"norm_limit": {"weights": [1.0, 2.0], "lambda": 0.5, "limit": 0.1}}), 3),
        (json!({"polar": {"direction": 0.3, "norm": 0.9}}), 2),
    ];
    let adaptive = [
        (json!({"sce": {"select_topk": 1.0, "floor": 0.0}}), 3),
        (json!({"sce": {"select_topk": 0.3, "floor": 1e-6}}), 3),
        (json!({"arcee_fusion": {}}), 2),
        (json!({"ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5}}), 3),
        (json!({"cosine": {"alpha": 0.5, "whole": false}}), 2),
        (json!({"cosine": {"alpha": 0.5, "whole": true}}), 2),
    ];
    let of = |op: &'static str| both.clone().map(|(rule, count)| (op, rule, count));
    let looking = adaptive.map(|(rule, count)| ("adaptive", rule, count));
    of("combine").into_iter().chain(of("rows")).chain(looking).collect()
}

/// Three models that are about as far apart as fine-tuned ones.
struct Scene {
    root: tempfile::TempDir,
    models: Vec<Vec<Vec<f32>>>,
}

fn noise(seed: u64, i: u64) -> f32 {
    let hash = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    hash as f32 / 8_388_608.0 - 1.0
}

fn elements(shape: &[u64]) -> u64 {
    shape.iter().product()
}

fn values(model: u64, tensor: u64, name: &str, shape: &[u64]) -> Vec<f32> {
    let model = if name == "equal" { 0 } else { model };
    let value = |i: u64| {
        let changed = if model == 0 { 0.0 } else { noise(100 * model + tensor, i) };
        0.05 * noise(tensor, i) + 0.02 * model as f32 * changed
    };
    let mut values: Vec<_> = (0..elements(shape)).map(value).collect();
    if name == "odd" && model == 1 {
        (values[5], values[2000], values[2001]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    }
    values
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let of = |(tensor, (name, shape)): (usize, &(&str, &[u64])), model: u64| {
            values(model, tensor as u64, name, shape)
        };
        let model = |m: u64| TENSORS.iter().enumerate().map(|t| of(t, m)).collect::<Vec<_>>();
        let models: Vec<_> = (0..3).map(model).collect();
        let scene = Self { root, models };
        let mut at = 0;
        let tensors = TENSORS.map(|(name, shape)| {
            let start = at;
            at += 4 * elements(shape);
            Tensor { name: name.into(), dtype: Dtype::F32, shape: shape.into(), start, end: at }
        });
        for (model, data) in scene.models.iter().enumerate() {
            let mut bytes = encode(&[], &tensors).expect("a header");
            bytes.extend(data.iter().flatten().flat_map(|x| x.to_le_bytes()));
            fs::write(scene.input(model), bytes).expect("room for an input");
        }
        scene
    }

    fn input(&self, model: usize) -> PathBuf {
        self.root.path().join(format!("{model}.safetensors"))
    }

    fn output(&self) -> PathBuf {
        self.root.path().join("merged.safetensors")
    }

    fn plan(&self, op: &str, rule: &Value, count: usize) -> Value {
        let source = |model: usize| {
            let path = self.input(model);
            let file = File::open(&path).expect("an input");
            let identity = FileIdentity::of(&file, &path).expect("an identity");
            json!({"file": {"path": path, "identity": identity}})
        };
        let outputs = TENSORS
            .map(|(name, shape)| json!({"file": 0, "name": name, "dtype": "F32", "shape": shape}));
        let unit = |(index, (name, shape)): (usize, &(&str, &[u64]))| {
            let end = shape.first().unwrap_or(&1);
            let rows = |source: usize| json!([{"rows": {"source": source, "tensor": name, "start": 0, "end": end}}]);
            let operands: Vec<_> = (0..count).map(rows).collect();
            json!({"name": name, "output": index, "start": 0, "end": end,
                "operands": operands, "op": {op: rule}})
        };
        json!({
            "version": 1, "overflow": "saturate", "target": {"file": {"path": self.output()}},
            "sources": (0..count).map(source).collect::<Vec<_>>(),
            "files": [{"path": "", "metadata": {"format": "pt"}}],
            "texts": [], "copies": [], "outputs": outputs,
            "units": TENSORS.iter().enumerate().map(unit).collect::<Vec<_>>(),
        })
    }

    /// The bytes written and what is reported of the units.
    fn run(&self, plan: &Value, how: &Value) -> (Vec<u8>, Value) {
        let mut options = json!({
            "mode": "write", "threads": 2, "chunk": 1 << 20, "memory_budget": 256 << 20,
            "io": "auto", "cache": "keep", "overwrite": true, "stats": true, "isa": "auto",
            "max_header_bytes": 10_000,
        });
        for (name, value) in how.as_object().expect("options") {
            options[name] = value.clone();
        }
        let (plan, options) = (plan.to_string(), options.to_string());
        let report = execute(&plan, &options, &AtomicBool::new(false), &mut |_, _| Ok(()));
        let report = report.unwrap_or_else(|error| panic!("{plan}: {error:?}"));
        let units = serde_json::to_value(&report).expect("a report")["units"].take();
        (fs::read(self.output()).expect("an output"), units)
    }

    /// The tensors written, by the order of [`TENSORS`].
    fn tensors(&self, op: &str, rule: &Value, count: usize) -> (Vec<Vec<f32>>, Value) {
        let (bytes, units) = self.run(&self.plan(op, rule, count), &json!({}));
        let total: u64 = TENSORS.iter().map(|(_, shape)| elements(shape)).sum();
        let (floats, _) = bytes[bytes.len() - 4 * total as usize..].as_chunks::<4>();
        let mut floats = floats.iter().map(|x| f32::from_le_bytes(*x));
        let mut tensor = |shape| floats.by_ref().take(elements(shape) as usize).collect();
        (TENSORS.map(|(_, shape)| tensor(shape)).to_vec(), units)
    }
}

fn index(tensor: &str) -> usize {
    TENSORS.iter().position(|(name, _)| *name == tensor).expect("a tensor")
}

#[test]
fn how_a_job_is_run_changes_no_bit() {
    let scene = Scene::new();
    let smooth = ("smooth", json!({"alpha": 0.5}), 3);
    for (op, rule, count) in rules().into_iter().chain([smooth]) {
        let plan = scene.plan(op, &rule, count);
        let want = scene.run(&plan, &json!({"threads": 1, "chunk": 1, "isa": "scalar"}));
        let mut ways = vec![
            json!({"threads": 3, "chunk": 1}),
            json!({"threads": 4, "chunk": 1 << 19, "io": "pread"}),
            json!({"threads": 2, "chunk": 16 << 20, "io": "mmap"}),
        ];
        ways.extend(Isa::available().iter().map(|isa| json!({"isa": isa.name()})));
        for way in ways {
            let got = scene.run(&plan, &way);
            assert!(got.0 == want.0, "{op} {rule} {way}: bytes differ");
            assert_eq!(got.1, want.1, "{op} {rule} {way}");
        }
    }
}

#[test]
fn equal_models_stay_what_they_are() {
    let scene = Scene::new();
    let equal = index("equal");
    for (op, rule, count) in rules() {
        let (got, _) = scene.tensors(op, &rule, count);
        for (got, want) in got[equal].iter().zip(&scene.models[0][equal]) {
            assert!((got - want).abs() <= 3e-7 * want.abs(), "{op} {rule}: {got} {want}");
        }
        // What starts from a base keeps it to the bit.
        if count == 3
            && (rule.to_string().contains("\"base\":true") || rule["model_stock"] != Value::Null)
        {
            assert_eq!(got[equal], scene.models[0][equal], "{op} {rule}");
        }
    }
}

#[test]
fn elements_that_are_not_finite_stay_where_they_are() {
    let scene = Scene::new();
    let odd = index("odd");
    for (op, rule, count) in rules() {
        let (got, units) = scene.tensors(op, &rule, count);
        for (i, x) in got[odd].iter().enumerate() {
            assert_eq!(x.is_finite(), ![5, 2000, 2001].contains(&i), "{op} {rule} {i}: {x}");
        }
        for (name, tensor) in TENSORS.iter().map(|(name, _)| name).zip(&got) {
            assert!(*name == "odd" || tensor.iter().all(|x| x.is_finite()), "{op} {rule} {name}");
        }
        let odd = units.as_array().expect("units").iter().find(|unit| unit["unit"] == odd);
        let odd = odd.expect("the unit");
        assert_eq!((&odd["nonfinite"][1], &odd["nonfinite_out"]), (&json!(3), &json!(3)), "{rule}");
    }
}

/// `sin((1 - t) θ) / sin θ · a + sin(t θ) / sin θ · b`, all in f64.
fn slerp(a: &[f32], b: &[f32], t: f64) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).acos();
    let weights = [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()];
    a.iter().zip(b).map(|(a, b)| weights[0] * f64::from(*a) + weights[1] * f64::from(*b)).collect()
}

fn assert_near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() < 2e-8, "{got} {want}");
    }
}

#[test]
fn slerp_over_many_cells_and_in_rows_is_that_of_whole_vectors() {
    let scene = Scene::new();
    let [a, b] = [&scene.models[0], &scene.models[1]];
    let rule = json!({"slerp": {"alpha": 0.3}});
    let (whole, units) = scene.tensors("combine", &rule, 2);
    let (rows, _) = scene.tensors("rows", &rule, 2);
    for name in ["line", "matrix", "wide"] {
        let i = index(name);
        assert_near(&whole[i], &slerp(&a[i], &b[i], 0.3));
    }
    for (name, row) in [("matrix", 1000), ("wide", 70_000)] {
        let i = index(name);
        let pairs = a[i].chunks(row).zip(b[i].chunks(row));
        for ((a, b), got) in pairs.zip(rows[i].chunks(row)) {
            assert_near(got, &slerp(a, b, 0.3));
        }
    }
    let notes = units.as_array().expect("units").iter().filter_map(|unit| {
        let note = unit["note"].as_str()?;
        Some((TENSORS[unit["unit"].as_u64()? as usize].0, note))
    });
    let line = "nearly parallel (cosine above 0.9995): linear";
    assert_eq!(notes.collect::<Vec<_>>(), [("equal", line), ("one", line), ("scalar", line)]);
}

#[test]
fn a_rule_for_another_number_of_operands_is_refused() {
    let scene = Scene::new();
    let smooth = ("smooth", json!({"alpha": 0.5}), 3);
    for (op, rule, count) in rules().into_iter().chain([smooth]) {
        let plan = scene.plan(op, &rule, if count == 2 { 3 } else { 1 }).to_string();
        let options = json!({
            "mode": "write", "threads": 1, "chunk": 1 << 20, "memory_budget": 64 << 20,
            "io": "auto", "cache": "keep", "overwrite": false, "stats": false, "isa": "auto",
            "max_header_bytes": 10_000,
        });
        let none = AtomicBool::new(false);
        let error = execute(&plan, &options.to_string(), &none, &mut |_, _| Ok(()));
        let text = error.expect_err("a refusal").to_string();
        assert!(text.contains("plan unit `equal`") && text.contains("expected"), "{text}");
        assert!(!scene.output().exists());
    }
}
