//! Models in memory, and jobs that read them and hand their result out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use submerge_core::dtype::Dtype;
use submerge_core::error::Result;
use submerge_core::exec::{Given, execute_with};
use submerge_core::format::safetensors::{Tensor, encode};
use submerge_core::io::source::{Memory, Source};
use submerge_core::report::Report;
use submerge_core::sink;

/// A matrix `w` (height, columns), and `up` (height, rank) and `down` (rank, columns), in F32.
#[derive(Clone)]
pub struct Model {
    seed: u32,
    pub height: usize,
    pub columns: usize,
    pub rank: usize,
    w: Option<Vec<f32>>,
}

impl Model {
    pub fn new(seed: u32, height: usize, columns: usize, rank: usize) -> Self {
        Self { seed, height, columns, rank, w: None }
    }

    /// The same with another `w`.
    pub fn with_w(&self, w: &[f32]) -> Self {
        Self { w: Some(w.to_vec()), ..self.clone() }
    }

    fn shape(&self, name: &str) -> [usize; 2] {
        match name {
            "w" => [self.height, self.columns],
            "up" => [self.height, self.rank],
            _ => [self.rank, self.columns],
        }
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let [rows, columns] = self.shape(name);
        if let ("w", Some(w)) = (name, &self.w) {
            return w.clone();
        }
        let salt = self.seed.wrapping_mul(0x85EB_CA6B) ^ name.len() as u32;
        let value = |i: u32| {
            let hash = i.wrapping_add(salt).wrapping_mul(0x9E37_79B1) ^ salt;
            (hash >> 8) as f32 / 16_777_216.0 - 0.5
        };
        (0..(rows * columns) as u32).map(value).collect()
    }

    pub fn file(&self) -> Vec<u8> {
        let (mut tensors, mut data) = (Vec::new(), Vec::new());
        for name in ["w", "up", "down"] {
            let start = data.len() as u64;
            data.extend(self.values(name).iter().flat_map(|x| x.to_le_bytes()));
            let shape = self.shape(name).map(|n| n as u64).to_vec();
            let (dtype, end) = (Dtype::F32, data.len() as u64);
            tensors.push(Tensor { name: name.into(), dtype, shape, start, end });
        }
        let mut file = encode(&[], &tensors).expect("a header");
        file.extend(data);
        file
    }
}

fn place(source: usize, tensor: &str, end: usize) -> Value {
    json!({"source": source, "tensor": tensor, "start": 0, "end": end})
}

/// A term: all rows of a tensor.
pub fn rows(source: usize, tensor: &str, end: usize) -> Value {
    json!({"rows": place(source, tensor, end)})
}

/// A term: the product of a model's thin matrices.
pub fn low_rank(source: usize, models: &[Model], scale: f64) -> Value {
    let Model { height, rank, .. } = models[source];
    let (up, down) = (place(source, "up", height), place(source, "down", rank));
    json!({"low_rank": {"up": up, "down": down, "scale": scale}})
}

/// A plan of one tensor of the shape of `w`.
pub struct Job {
    pub plan: Value,
    pub options: Value,
    pub given: Vec<(String, Arc<dyn Source>)>,
}

/// What came out.
pub struct Done {
    pub report: Report,
    pub file: Vec<u8>,
    data: usize,
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").field("bytes", &self.file.len()).finish_non_exhaustive()
    }
}

impl Done {
    pub fn values(&self) -> Vec<f32> {
        let data = &self.file[self.file.len() - self.data..];
        data.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
    }
}

impl Job {
    pub fn new(models: &[Model], operands: &Value, op: &Value) -> Self {
        let name = |i: usize| format!("model {i}");
        let given = models.iter().enumerate().map(|(i, model)| {
            let memory = Memory::new(&name(i), "v1", model.file().into());
            (name(i), Arc::new(memory) as Arc<dyn Source>)
        });
        let given: Vec<_> = given.collect();
        let sources = given.iter().map(|(name, source)| {
            let identity = json!({"tag": "v1", "size": source.identity().size()});
            json!({"given": {"name": name, "identity": identity}})
        });
        let Model { height, columns, .. } = models[0];
        let plan = json!({
            "version": 1, "overflow": "saturate", "target": {"file": {"path": "nowhere"}},
            "sources": sources.collect::<Vec<_>>(),
            "files": [{"path": "", "metadata": {"format": "pt"}}], "texts": [], "copies": [],
            "outputs": [{"file": 0, "name": "w", "dtype": "F32", "shape": [height, columns]}],
            "units": [{"name": "w", "output": 0, "start": 0, "end": height,
                "operands": operands, "op": op}],
        });
        let options = json!({
            "mode": "write", "threads": 2, "chunk": 1 << 20, "memory_budget": 64 << 20,
            "io": "auto", "cache": "drop", "overwrite": false, "stats": true, "isa": "auto",
            "max_header_bytes": 10_000,
        });
        Self { plan, options, given }
    }

    /// The same under other options.
    pub fn with(&self, options: &Value) -> Self {
        let mut changed = self.options.clone();
        let more = options.as_object().expect("options").clone();
        changed.as_object_mut().expect("options").extend(more);
        Self { plan: self.plan.clone(), options: changed, given: self.given.clone() }
    }

    pub fn run(&self) -> Done {
        self.try_run().expect("a job that fits")
    }

    pub fn try_run(&self) -> Result<Done> {
        let mut memory = sink::Memory::default();
        let sources = self.given.iter().cloned().collect();
        let given = Given { sources, sink: Some(&mut memory), ..Given::default() };
        let (plan, options) = (self.plan.to_string(), self.options.to_string());
        let cancel = AtomicBool::new(false);
        let report = execute_with(&plan, &options, given, &cancel, &mut |_, _| Ok(()))?;
        let [(name, file)]: [_; 1] = memory.into_files().try_into().expect("one file");
        assert_eq!((name.as_str(), report.bytes_written), ("", file.len() as u64));
        let shape = self.plan["outputs"][0]["shape"].as_array().expect("a shape");
        let elements: u64 = shape.iter().map(|n| n.as_u64().expect("a number")).product();
        Ok(Done { report, file, data: elements as usize * 4 })
    }
}
