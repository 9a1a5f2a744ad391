//! One tensor in four files, and a job over it.

use std::fs::{self, File};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use submerge_core::dtype::Dtype;
use submerge_core::exec::execute;
use submerge_core::format::safetensors::{Tensor, encode};
use submerge_core::io::source::FileIdentity;

/// A base and three models in files of F32.
pub struct Inputs {
    folder: tempfile::TempDir,
    pub rows: usize,
    pub columns: usize,
    pub values: [Vec<f32>; 4],
    operands: usize,
}

/// A number in -1..1 for every seed and index.
pub fn noise(seed: u64, i: usize) -> f32 {
    let hash = (i as u64 + 1 + seed * 7_919).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let hash = (hash ^ hash >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (hash >> 40) as f32 / 8_388_608.0 - 1.0
}

impl Inputs {
    pub fn of(rows: usize, columns: usize, values: [&[f32]; 4]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (i, values) in values.iter().enumerate() {
            assert_eq!(values.len(), rows * columns);
            let shape = vec![rows as u64, columns as u64];
            let end = values.len() as u64 * 4;
            let tensor = Tensor { name: "t".into(), dtype: Dtype::F32, shape, start: 0, end };
            let mut bytes = encode(&[], &[tensor]).expect("a header");
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            fs::write(folder.path().join(format!("{i}")), bytes).expect("room for an input");
        }
        Self { folder, rows, columns, values: values.map(<[f32]>::to_vec), operands: 4 }
    }

    /// Hardly two differences are equal.
    pub fn smooth(rows: usize, columns: usize) -> Self {
        let base: Vec<_> = (0..rows * columns).map(|i| noise(0, i)).collect();
        let near = |seed: u64| -> Vec<f32> {
            base.iter().enumerate().map(|(i, b)| b + noise(seed, i).powi(3) * 0.01).collect()
        };
        let models = [near(1), near(2), near(3)];
        Self::of(rows, columns, [&base, &models[0], &models[1], &models[2]])
    }

    /// Values of BF16: many differences are equal, and many are 0.
    pub fn coarse(rows: usize, columns: usize) -> Self {
        let smooth = Self::smooth(rows, columns);
        let round = |x: &f32| f32::from_bits((x.to_bits() + 0x8000) & 0xFFFF_0000);
        let values = smooth.values.map(|values| values.iter().map(round).collect::<Vec<_>>());
        Self::of(rows, columns, [&values[0], &values[1], &values[2], &values[3]])
    }

    /// The same, of which a job has only so many operands.
    pub fn first(&self, operands: usize) -> Self {
        let [a, b, c, d] = &self.values;
        Self { operands, ..Self::of(self.rows, self.columns, [a, b, c, d]) }
    }

    pub fn run(&self, op: &Value) -> Vec<f32> {
        self.run_with(op, &json!({}))
    }

    /// The output of a job with these options changed.
    pub fn run_with(&self, op: &Value, changed: &Value) -> Vec<f32> {
        let path = self.folder.path().join("out");
        self.execute(op, changed).unwrap_or_else(|error| panic!("{op}: {error}"));
        let bytes = fs::read(path).expect("an output");
        let data = &bytes[bytes.len() - self.rows * self.columns * 4..];
        data.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
    }

    pub fn refused(&self, op: &Value) -> String {
        self.execute(op, &json!({})).expect_err("a refusal")
    }

    fn execute(&self, op: &Value, changed: &Value) -> Result<(), String> {
        let source = |i: usize| {
            let path = self.folder.path().join(format!("{i}"));
            let file = File::open(&path).expect("an input");
            let identity = FileIdentity::of(&file, &path).expect("an identity");
            json!({"file": {"path": path, "identity": identity}})
        };
        let operand = |i: usize| json!([{"rows": {"source": i, "tensor": "t", "start": 0, "end": self.rows}}]);
        let plan = json!({
            "version": 1, "overflow": "saturate",
            "target": {"file": {"path": self.folder.path().join("out")}},
            "sources": (0..4).map(source).collect::<Vec<_>>(),
            "files": [{"path": "", "metadata": {}}], "texts": [], "copies": [],
            "outputs": [{"file": 0, "name": "t", "dtype": "F32", "shape": [self.rows, self.columns]}],
            "units": [{"name": "t", "output": 0, "start": 0, "end": self.rows,
                "operands": (0..self.operands).map(operand).collect::<Vec<_>>(), "op": op}],
        });
        let mut options = json!({
            "mode": "write", "threads": 2, "chunk": 1 << 18, "memory_budget": 64 << 20,
            "io": "auto", "cache": "keep", "overwrite": true, "stats": false, "isa": "auto",
            "max_header_bytes": 1000,
        });
        for (name, value) in changed.as_object().expect("options") {
            options[name] = value.clone();
        }
        let never = AtomicBool::new(false);
        let done = execute(&plan.to_string(), &options.to_string(), &never, &mut |_, _| Ok(()));
        done.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// Equal values within so many steps of f32; NaN equals NaN, +0 and -0 are equal.
pub fn same(got: &[f32], want: &[f32], ulps: i64) -> bool {
    let place =
        |x: f32| i64::from(x.to_bits().cast_signed() & i32::MAX) * if x < 0.0 { -1 } else { 1 };
    let close = |a: f32, b: f32| a.is_nan() && b.is_nan() || (place(a) - place(b)).abs() <= ulps;
    let different = got.iter().zip(want).position(|(a, b)| !close(*a, *b));
    if let Some(i) = different {
        let line = format!("element {i}: {:e}, expected {:e}", got[i], want[i]);
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("a terminal");
    }
    different.is_none() && got.len() == want.len()
}
