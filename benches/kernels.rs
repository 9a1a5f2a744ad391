//! Throughput of the kernels in GB/s of traffic (every byte read or written counts once), per
//! operation, dtype and instruction set, beside `memcpy` on buffers of the same size.
//!
//! `cargo bench --bench kernels`, or with `-- --quick` one run of everything: every result is
//! checked after it was timed, so the quick run is a test.

use std::hint::black_box;
use std::io::{self, Write as _};
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use submerge_core::dtype::{Float, Overflow};
use submerge_core::format::codec::{self, Plain, Sides};
use submerge_core::kernels::runner::{Map, Run};
use submerge_core::kernels::tile::{Tile, Whole};
use submerge_core::plan::{Action, OpSpec};
use submerge_core::simd::{BLOCK, Isa};
use submerge_core::stats::{Analysis, Analyze, Made, UnitStats, pieces};

/// Elements per stream: what a worker holds of one operand at a time.
const ELEMENTS: usize = 512 * BLOCK;

/// How long one figure is measured, in rounds of which the best counts: the machine may be shared.
const ROUNDS: usize = 80;
const ROUND: Duration = Duration::from_millis(4);

/// Runs `work`, which moves `bytes`, and gives GB/s; once and without meaning when `quick`.
fn rate(quick: bool, bytes: usize, mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..if quick { 1 } else { ROUNDS } {
        let start = Instant::now();
        let mut runs = 0;
        while runs == 0 || (!quick && start.elapsed() < ROUND) {
            work();
            runs += 1;
        }
        best = best.min(start.elapsed() / runs);
    }
    bytes as f64 / best.as_secs_f64() / 1e9
}

/// Encoded weights like a trained matrix's: bell-shaped, spread 0.05.
fn weights(dtype: Float, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(ELEMENTS * dtype.bytes());
    for _ in 0..ELEMENTS {
        let mut sum = -2.0;
        for _ in 0..4 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (seed >> 40) as f32 / 16_777_216.0;
        }
        let bits = dtype.encode(Overflow::Saturate, sum * 0.09);
        out.extend_from_slice(&bits.to_le_bytes()[..dtype.bytes()]);
    }
    out
}

/// The merge loop of a worker: decode, map, encode, block by block; with statistics if asked.
struct Merge<'a> {
    isa: &'static Isa,
    dtype: Float,
    operands: &'a [Vec<u8>],
    map: &'a dyn Map,
}

impl Merge<'_> {
    fn run(&self, out: &mut [u8], mut stats: Option<&mut UnitStats>) {
        let mut decoded = vec![[0.0; BLOCK]; self.operands.len()];
        let mut result = [0.0; BLOCK];
        let bytes = BLOCK * self.dtype.bytes();
        for (block, out) in out.chunks_exact_mut(bytes).enumerate() {
            for (operand, decoded) in self.operands.iter().zip(&mut decoded) {
                self.isa.decode(self.dtype, &operand[block * bytes..][..bytes], decoded);
            }
            let slices: [&[f32]; 2] = [&decoded[0], &decoded[1]];
            let tile =
                Tile { isa: self.isa, first: 0, row: BLOCK, around: [0, 0], operands: &slices };
            self.map.map(tile, &mut result);
            self.isa.encode(self.dtype, Overflow::Saturate, &result, out);
            if let Some(stats) = stats.as_deref_mut() {
                let (values, to) = (&result[..], self.dtype);
                let run = codec::Run { first: 0, bytes: out, sides: Sides::default() };
                stats.add(
                    self.isa,
                    Made { operands: &slices, added: &[], values, to: &Plain(to), run },
                );
            }
        }
    }

    /// Element by element with the scalar definition.
    fn expected(&self, weights: [f32; 2]) -> Vec<u8> {
        let n = self.dtype.bytes();
        let value = |operand: &[u8], i: usize| {
            let mut bits = [0; 4];
            bits[..n].copy_from_slice(&operand[i * n..][..n]);
            self.dtype.decode(u32::from_le_bytes(bits))
        };
        (0..ELEMENTS)
            .flat_map(|i| {
                let [a, b] = [0, 1].map(|k| value(&self.operands[k], i) * weights[k]);
                let bits = self.dtype.encode(Overflow::Saturate, a + b).to_le_bytes();
                bits.into_iter().take(n)
            })
            .collect()
    }
}

fn merges(quick: bool, table: &mut impl io::Write) -> io::Result<()> {
    let run = run_of(json!({"linear": {"weights": [0.3, 0.7]}}), 2);
    let map = run.map().expect("all is known");
    for dtype in Float::ALL.iter().copied() {
        let operands = [weights(dtype, 1), weights(dtype, 2)];
        let mut out = vec![0; operands[0].len()];
        let traffic = 3 * out.len();
        for isa in Isa::available() {
            let merge = Merge { isa, dtype, operands: &operands, map: &*map };
            let plain = rate(quick, traffic, || merge.run(black_box(&mut out), None));
            assert_eq!(out, merge.expected([0.3, 0.7]), "{dtype:?} {}", isa.name());
            let mut stats = UnitStats::new(2);
            let counted = rate(quick, traffic, || {
                stats = UnitStats::new(2);
                merge.run(black_box(&mut out), Some(&mut stats));
            });
            assert_eq!(stats.elements, ELEMENTS as u64);
            assert!(stats.changed > stats.elements / 2 && stats.delta2[1] > 0.0, "{stats:?}");
            let name = dtype.dtype().name();
            writeln!(table, "linear 2x    {name:8} {:8} {plain:6.1}", isa.name())?;
            writeln!(table, "  with stats {name:8} {:8} {counted:6.1}", isa.name())?;
        }
    }
    Ok(())
}

/// What an analysis costs: two models beside each other, rows of a real layer.
fn analyses(quick: bool, table: &mut impl io::Write) -> io::Result<()> {
    const ROW: usize = 3 * BLOCK;
    let operands = [weights(Float::BF16, 1), weights(Float::BF16, 2)];
    let traffic = operands[0].len() + operands[1].len();
    let mut decoded = [[0.0; BLOCK]; 2];
    for isa in Isa::available() {
        let mut found = UnitStats::new(2);
        let rate = rate(quick, traffic, || {
            let mut analysis = Analysis::new(2, true);
            found = UnitStats::new(2);
            for (range, column, ends_row) in pieces(0..ELEMENTS / ROW * ROW, Some(ROW)) {
                for (operand, decoded) in operands.iter().zip(&mut decoded) {
                    isa.decode(Float::BF16, &operand[2 * range.start..2 * range.end], decoded);
                }
                let slices: [&[f32]; 2] = [&decoded[0], &decoded[1]];
                let tile = Tile { isa, first: 0, row: ROW, around: [0; 2], operands: &slices };
                assert!(found.add_operands(isa, &slices));
                analysis.add(Analyze { alpha: 0.5 }, Float::BF16, tile, column);
                if ends_row {
                    analysis.end_row(isa);
                }
            }
            analysis.end_cell();
            analysis.finish();
            found.analysis = Some(Box::new(analysis));
        });
        assert!(found.analysis.is_some_and(|found| found.spread[0].cross > 0.0));
        writeln!(table, "analyze 2x   BF16     {:8} {rate:6.1}", isa.name())?;
    }
    Ok(())
}

/// The parts, for tuning: traffic is bytes of the encoded side only.
fn conversions(quick: bool, table: &mut impl io::Write) -> io::Result<()> {
    for dtype in Float::ALL.iter().copied() {
        let bytes = weights(dtype, 3);
        let mut values = vec![0.0; ELEMENTS];
        let mut out = vec![0; bytes.len()];
        let block = BLOCK * dtype.bytes();
        for isa in Isa::available() {
            let decode = rate(quick, bytes.len(), || {
                for (bytes, values) in bytes.chunks(block).zip(values.chunks_mut(BLOCK)) {
                    isa.decode(dtype, black_box(bytes), &mut values[..]);
                }
            });
            let encode = rate(quick, bytes.len(), || {
                for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(block)) {
                    isa.encode(dtype, Overflow::Saturate, black_box(values), out);
                }
            });
            assert_eq!(out, bytes, "{dtype:?} {}", isa.name());
            let name = dtype.dtype().name();
            writeln!(table, "decode       {name:8} {:8} {decode:6.1}", isa.name())?;
            writeln!(table, "encode       {name:8} {:8} {encode:6.1}", isa.name())?;
        }
    }
    Ok(())
}

/// Passes and maps of the methods on a base and two models near it, in ns for each element.
fn methods(quick: bool, table: &mut impl io::Write) -> io::Result<()> {
    let delta = |consensus: &str, sparsify: Value| {
        json!({"delta": {"weights": [1.0, 1.0], "lambda": 1.0, "normalize": "weights",
                         "consensus": consensus, "even": "majority", "sparsify": sparsify}})
    };
    let (half, keys) = ([0.5, 0.5], [1, 2]);
    let random = json!({"random": {"density": half, "keys": keys, "rescale": "inverse"}});
    let rank = json!({"rank": {"density": half, "epsilon": [0.15, 0.15], "keys": keys, "rescale": "inverse"}});
    let rules = [
        ("linear 3x", json!({"linear": {"weights": [0.3, 0.3, 0.4]}})),
        ("model stock", json!({"combine": {"model_stock": {"floor": 0.0}}})),
        ("task", delta("none", json!({"none": {}}))),
        ("ties", delta("sum", json!({"magnitude": {"density": half}}))),
        (
            "breadcrumbs",
            delta("none", json!({"outliers": {"density": half, "gamma": [0.01, 0.01]}})),
        ),
        ("dare", delta("none", random)),
        ("della", delta("sum", rank)),
    ];
    let base = weights(Float::BF16, 1);
    let models = [2, 3].map(|seed| weights(Float::BF16, seed));
    let values = |bytes: &[u8]| {
        let mut out = vec![0.0; ELEMENTS];
        bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)).for_each(|(bytes, out)| {
            Isa::best().decode(Float::BF16, bytes, out);
        });
        out
    };
    let base = values(&base);
    let near = |x: Vec<f32>| -> Vec<f32> {
        let round = |v: f32| Float::BF16.decode(Float::BF16.encode(Overflow::Saturate, v));
        x.iter().zip(&base).map(|(x, b)| round(b + 0.1 * x)).collect()
    };
    let [a, b] = models.map(|model| near(values(&model)));
    let operands = [&base[..], &a[..], &b[..]];
    for (name, rule) in rules {
        let run = run_of(rule, 3);
        for isa in Isa::available() {
            let mut out = vec![0.0; ELEMENTS];
            let job = Method { isa, run: &*run, operands: &operands };
            let pass = rate(quick, ELEMENTS, || job.pass());
            let map = rate(quick, ELEMENTS, || job.map(black_box(&mut out)));
            assert!(out.iter().zip(&base).any(|(x, b)| x.to_bits() != b.to_bits()), "{name}");
            let (pass, map) = (1.0 / pass, 1.0 / map);
            let isa = isa.name();
            writeln!(table, "{name:12} pass {pass:6.2} map {map:6.2} ns/element {isa}")?;
        }
    }
    Ok(())
}

fn run_of(rule: Value, operands: usize) -> Box<dyn Run> {
    let op: OpSpec = serde_json::from_value(rule).expect("an operation of the plan");
    match op.action(Whole { operands, elements: ELEMENTS as u64 }) {
        Ok(Action::Compute(run)) => run,
        other => unreachable!("not a method that is measured: {other:?}"),
    }
}

/// A unit in memory, to be passed over and mapped by one thread as a worker does.
struct Method<'a> {
    isa: &'static Isa,
    run: &'a dyn Run,
    operands: &'a [&'a [f32]; 3],
}

impl Method<'_> {
    const ROW: usize = 2048;

    fn tiles(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = if self.run.by_rows() { Self::ROW * 32 } else { BLOCK };
        let end = range.end;
        range.step_by(step).map(move |at| at..end.min(at + step))
    }

    fn show<T>(&self, range: Range<usize>, see: impl FnOnce(Tile) -> T) -> T {
        let operands = self.operands.map(|x| &x[range.clone()]);
        see(Tile {
            around: [0, 0],
            isa: self.isa,
            first: range.start as u64,
            row: Self::ROW,
            operands: &operands,
        })
    }

    fn pass(&self) {
        self.run.forget();
        while let Some(mut sums) = self.run.pass() {
            for span in sums.spans(0..ELEMENTS as u64) {
                sums.cell(&mut |reduce| {
                    for range in self.tiles(span.start as usize..span.end as usize) {
                        self.show(range, &mut *reduce);
                    }
                });
            }
            sums.flush();
            sums.add();
            self.run.learn();
        }
    }

    fn map(&self, out: &mut [f32]) {
        let map = self.run.map().expect("all is known");
        for range in self.tiles(0..ELEMENTS) {
            self.show(range.clone(), |tile| map.map(tile, &mut out[range]));
        }
    }
}

fn main() -> io::Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let mut table = io::stdout().lock();
    if std::env::args().any(|arg| arg == "methods") {
        return methods(quick, &mut table);
    }
    writeln!(table, "operation    dtype    isa        GB/s")?;
    let from = weights(Float::BF16, 4);
    let mut to = vec![0; from.len()];
    let copy = rate(quick, 2 * from.len(), || to.copy_from_slice(black_box(&from)));
    assert_eq!(to, from);
    writeln!(table, "memcpy       {:8} {:8} {copy:6.1}", "-", "-")?;
    merges(quick, &mut table)?;
    analyses(quick, &mut table)?;
    conversions(quick, &mut table)?;
    methods(quick, &mut table)
}
