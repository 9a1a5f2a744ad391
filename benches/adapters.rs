//! What adapters cost in a merge: whole jobs from memory to memory on one thread, a matrix of 3072 rows
//! and columns of two models in bf16, plain and with a product of two thin matrices on each model; in ns
//! for each element, beside the plain merge, and in products and sums of f32 a second.
//!
//! `cargo bench --bench adapters`, or with `-- --quick` one run of everything: the last row of every result
//! is checked, so the quick run is a test.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Value, json};
use submerge_core::dtype::{Dtype, Float, Overflow};
use submerge_core::exec::{Given, execute_with};
use submerge_core::format::safetensors::{Tensor, encode};
use submerge_core::io::source::{Memory, Source};
use submerge_core::simd::Isa;
use submerge_core::sink;

/// Rows and columns.
const SIDE: usize = 3072;
const RANKS: [usize; 3] = [4, 16, 128];
const WEIGHTS: [f32; 2] = [0.3, 0.7];
const SCALE: f32 = 0.8;
/// How often a job is run; the best counts: the machine may be shared.
const ROUNDS: usize = 9;

/// A model with factors for each rank, all as bf16.
struct Model {
    tensors: Vec<Tensor>,
    data: Vec<u8>,
}

impl Model {
    fn new(mut seed: u64) -> Self {
        let mut model = Self { tensors: Vec::new(), data: Vec::new() };
        let factors = RANKS.into_iter().flat_map(|rank| {
            [(format!("up.{rank}"), [SIDE, rank]), (format!("down.{rank}"), [rank, SIDE])]
        });
        for (name, shape) in [("w".to_owned(), [SIDE, SIDE])].into_iter().chain(factors) {
            let start = model.data.len() as u64;
            for _ in 0..shape[0] * shape[1] {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let value = (seed >> 40) as f32 / 16_777_216.0 - 0.5;
                let bits = Float::BF16.encode(Overflow::Saturate, value);
                model.data.extend_from_slice(&bits.to_le_bytes()[..2]);
            }
            let (end, shape) = (model.data.len() as u64, shape.map(|n| n as u64).to_vec());
            model.tensors.push(Tensor { name, dtype: Dtype::BF16, shape, start, end });
        }
        model
    }

    fn at(&self, name: &str, row: usize, column: usize) -> f32 {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name).expect("a tensor");
        let at = tensor.start as usize + 2 * (row * tensor.shape[1] as usize + column);
        Float::BF16.decode(u32::from(u16::from_le_bytes([self.data[at], self.data[at + 1]])))
    }

    /// The element as the adapter leaves it.
    fn adapted(&self, rank: Option<usize>, row: usize, column: usize) -> f32 {
        let w = self.at("w", row, column);
        let Some(rank) = rank else { return w };
        let (up, down) = (format!("up.{rank}"), format!("down.{rank}"));
        let product = |k| self.at(&up, row, k) * self.at(&down, k, column);
        w + (1..rank).fold(product(0), |sum, k| sum + product(k)) * SCALE
    }

    fn source(&self, name: &str) -> Arc<dyn Source> {
        let mut file = encode(&[], &self.tensors).expect("a header");
        file.extend(&self.data);
        Arc::new(Memory::new(name, "1", file.into()))
    }
}

fn plan(sources: &[(String, Arc<dyn Source>)], rank: Option<usize>) -> Value {
    let place = |source: usize, name: String, end: usize| json!({"source": source, "tensor": name, "start": 0, "end": end});
    let operand = |i: usize| {
        let rows = json!({"rows": place(i, "w".to_owned(), SIDE)});
        let product = rank.map(|rank| {
            let (up, down) = (format!("up.{rank}"), format!("down.{rank}"));
            let (up, down) = (place(i, up, SIDE), place(i, down, rank));
            json!({"low_rank": {"up": up, "down": down, "scale": 0.8}})
        });
        json!([rows].into_iter().chain(product).collect::<Vec<_>>())
    };
    let given = sources.iter().map(|(name, source)| {
        let identity = json!({"tag": "1", "size": source.identity().size()});
        json!({"given": {"name": name, "identity": identity}})
    });
    json!({
        "version": 1, "overflow": "saturate", "target": {"file": {"path": "nowhere"}},
        "sources": given.collect::<Vec<_>>(), "files": [{"path": "", "metadata": {}}], "texts": [],
        "copies": [],
        "outputs": [{"file": 0, "name": "w", "dtype": "BF16", "shape": [SIDE, SIDE]}],
        "units": [{"name": "w", "output": 0, "start": 0, "end": SIDE,
            "operands": [operand(0), operand(1)], "op": {"linear": {"weights": [0.3, 0.7]}}}],
    })
}

/// Seconds of a job, and the file it makes.
fn run(plan: &str, isa: &Isa, sources: &[(String, Arc<dyn Source>)]) -> (f64, Vec<u8>) {
    let options = json!({
        "mode": "write", "threads": 1, "chunk": 1 << 20, "memory_budget": 256 << 20, "io": "auto",
        "cache": "keep", "overwrite": false, "stats": true, "isa": isa.name(),
        "max_header_bytes": 10_000,
    });
    let mut memory = sink::Memory::default();
    let sources = sources.iter().cloned().collect();
    let given = Given { sources, sink: Some(&mut memory), ..Given::default() };
    let begun = Instant::now();
    let done = execute_with(
        plan,
        &options.to_string(),
        given,
        &AtomicBool::new(false),
        &mut |_, _| Ok(()),
    );
    let seconds = begun.elapsed().as_secs_f64();
    done.expect("a job that fits");
    (seconds, memory.into_files().pop().expect("a file").1)
}

fn check(models: &[Model; 2], rank: Option<usize>, file: &[u8]) {
    for column in [0, 1, SIDE - 1] {
        let [a, b] = [0, 1].map(|i| models[i].adapted(rank, SIDE - 1, column) * WEIGHTS[i]);
        let expected = Float::BF16.encode(Overflow::Saturate, a + b).to_le_bytes();
        let at = file.len() - 2 * (SIDE - column);
        assert_eq!(file[at..at + 2], expected[..2], "{rank:?} {column}");
    }
}

fn main() -> io::Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let models = [Model::new(1), Model::new(2)];
    let source = |i: usize| (format!("model {i}"), models[i].source(&format!("model {i}")));
    let sources = [source(0), source(1)];
    let mut table = io::stdout().lock();
    writeln!(table, "adapters  isa      ns/element  x plain  G products/s")?;
    for isa in Isa::available() {
        let mut plain = 0.0;
        for rank in [None].into_iter().chain(RANKS.map(Some)) {
            let job = plan(&sources, rank).to_string();
            let rounds = if quick { 1 } else { ROUNDS };
            let made: Vec<_> = (0..rounds).map(|_| run(&job, isa, &sources)).collect();
            check(&models, rank, &made[0].1);
            let best = made.iter().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
            let each = best * 1e9 / (SIDE * SIDE) as f64;
            plain = if rank.is_none() { each } else { plain };
            let name = rank.map_or_else(|| "none".to_owned(), |rank| format!("rank {rank}"));
            let products = (2 * rank.unwrap_or(0)) as f64 / each;
            let (isa, ratio) = (isa.name(), each / plain);
            writeln!(table, "{name:9} {isa:8} {each:10.2} {ratio:8.2} {products:12.1}")?;
        }
    }
    Ok(())
}
