//! What codes with scales beside them cost: decoding and encoding in elements a second beside BF16, and
//! whole merges of two BF16 matrices from memory to memory on one thread, in ns for each element, with and
//! without statistics, beside the merge to BF16.
//!
//! `cargo bench --bench scales`, or with `-- --quick` one run of everything.

use std::hint::black_box;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use submerge_core::dtype::{Dtype, Float, Overflow};
use submerge_core::exec::{Given, execute_with};
use submerge_core::format::codec::{CodecSpec, Run, Side, Sides, Stored, Values};
use submerge_core::format::safetensors::{Tensor, encode};
use submerge_core::io::source::{Memory, Source};
use submerge_core::simd::{BLOCK, Isa};
use submerge_core::sink;

/// Rows and columns.
const SIDE: usize = 3072;
/// How often something is run; the best counts: the machine may be shared.
const ROUNDS: usize = 15;

struct Format {
    name: &'static str,
    spec: Value,
    dtype: &'static str,
    sides: Vec<(&'static str, Vec<usize>)>,
}

fn formats() -> Vec<Format> {
    let of = |name, spec: Value, dtype, sides| Format { name, spec, dtype, sides };
    let (whole, each) = (vec![("F32", vec![])], vec![("F32", vec![SIDE, 1])]);
    let tiles = |n: usize| vec![SIDE, SIDE / n];
    let four = vec![("F8_E4M3", tiles(16)), ("F32", vec![])];
    let seeded = json!({"scaled": {"seed": 1}});
    vec![
        of("bf16", json!("plain"), "BF16", vec![]),
        of("f16", json!("plain"), "F16", vec![]),
        of("f8_e4m3", json!("plain"), "F8_E4M3", vec![]),
        of("f8_e5m2", json!("plain"), "F8_E5M2", vec![]),
        of("fp8_scaled", json!("scaled"), "F8_E4M3", whole.clone()),
        of("  at random", seeded, "F8_E4M3", whole.clone()),
        of("fp8_row", json!("scaled_rows"), "F8_E4M3", each.clone()),
        of("int8", json!("int8"), "I8", whole),
        of("int8_row", json!("int8_rows"), "I8", each.clone()),
        of("int8_convrot", json!("int8_convrot"), "I8", each),
        of("mxfp8", json!("mxfp8"), "F8_E4M3", vec![("F8_E8M0", tiles(32))]),
        of("nvfp4", json!("nvfp4"), "U8", four.clone()),
        of("nvfp4_bfl", json!("nvfp4_bfl"), "U8", four),
    ]
}

fn value(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*seed >> 40) as f32 / 16_777_216.0 - 0.5
}

fn model(name: &str, mut seed: u64) -> Arc<dyn Source> {
    let mut data = Vec::new();
    for _ in 0..SIDE * SIDE {
        let bits = Float::BF16.encode(Overflow::Saturate, value(&mut seed));
        data.extend_from_slice(&bits.to_le_bytes()[..2]);
    }
    let (shape, end) = (vec![SIDE as u64; 2], data.len() as u64);
    let tensor = Tensor { name: "w".into(), dtype: Dtype::BF16, shape, start: 0, end };
    let mut file = encode(&[], &[tensor]).expect("a header");
    file.extend(data);
    Arc::new(Memory::new(name, "1", file.into()))
}

/// Runs `work` and gives the nanoseconds for each of `elements`.
fn each(quick: bool, elements: usize, mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..if quick { 1 } else { ROUNDS } {
        let begun = Instant::now();
        work();
        best = best.min(begun.elapsed());
    }
    best.as_secs_f64() * 1e9 / elements as f64
}

/// Decoding and encoding of some rows, block by block as a merge does it.
fn codec(format: &Format, isa: &Isa, quick: bool) -> [f64; 2] {
    const ROWS: usize = 128;
    const ELEMENTS: usize = ROWS * SIDE;
    let spec: CodecSpec = serde_json::from_value(format.spec.clone()).expect("a spec");
    let dtype = Dtype::parse(format.dtype).expect("a dtype");
    let columns = if format.dtype == "U8" { SIDE / 2 } else { SIDE };
    let stored = Stored { dtype, rows: ROWS as u64, columns: columns as u64, sides: None };
    let codec = spec.codec(stored, "bench").expect("a codec").expect("numbers");
    let mut seed = 3;
    let values: Vec<f32> = (0..ELEMENTS).map(|_| value(&mut seed)).collect();
    let blocks = ELEMENTS / codec.block().elements;
    let groups = codec.needs().groups(0..blocks as u64).end as usize;
    let mut largest = vec![0.0; groups];
    codec.observe(isa, 0, &values, &mut largest);
    let length = |side: &Side| side.range(0..blocks as u64).end as usize;
    let mut filled: Vec<Vec<u8>> = codec.sides().iter().map(|side| vec![0; length(side)]).collect();
    codec.fill_sides(&largest, &mut filled);
    let sides: Vec<&[u8]> = filled.iter().map(Vec::as_slice).collect();
    let sides = Sides { first: 0, bytes: &sides };
    let mut bytes = vec![0; codec.block().range(0..ELEMENTS).len()];
    let (block, at) = (codec.block(), |first: usize| (first / codec.block().elements) as u64);
    let overflow = Overflow::Saturate;
    let encode = each(quick, ELEMENTS, || {
        for first in (0..ELEMENTS).step_by(BLOCK) {
            let range = first..first + BLOCK;
            let out = &mut bytes[block.range(range.clone())];
            let values = &black_box(&values)[range];
            codec.encode(isa, Values { first: at(first), values, sides, overflow }, out);
        }
    });
    let mut out = [0.0; BLOCK];
    let mut sum = 0.0;
    let decode = each(quick, ELEMENTS, || {
        for first in (0..ELEMENTS).step_by(BLOCK) {
            let bytes = &black_box(&bytes)[block.range(first..first + BLOCK)];
            codec.decode(isa, Run { first: at(first), bytes, sides }, black_box(&mut out));
            sum += out[0];
        }
    });
    assert!(
        (out[BLOCK - 1] - values[ELEMENTS - 1]).abs() < 0.1 && sum.is_finite(),
        "{}",
        format.name
    );
    [decode, encode]
}

fn plan(sources: &[(String, Arc<dyn Source>)], format: &Format) -> Value {
    let operand = |source: usize| json!([{"rows": {"source": source, "tensor": "w", "start": 0, "end": SIDE}}]);
    let given = sources.iter().map(|(name, source)| {
        let identity = json!({"tag": "1", "size": source.identity().size()});
        json!({"given": {"name": name, "identity": identity}})
    });
    let wide = if format.dtype == "U8" { SIDE / 2 } else { SIDE };
    let mut outputs = vec![
        json!({"file": 0, "name": "w", "dtype": format.dtype, "shape": [SIDE, wide], "codec": format.spec}),
    ];
    let mut units = vec![json!({"name": "w", "output": 0, "start": 0, "end": SIDE,
        "operands": [operand(0), operand(1)], "op": {"linear": {"weights": [0.3, 0.7]}}})];
    for (i, (dtype, shape)) in format.sides.iter().enumerate() {
        let (name, end) = (format!("s{i}"), shape.first().copied().unwrap_or(1));
        outputs.push(json!({"file": 0, "name": name, "dtype": dtype, "shape": shape}));
        units.push(json!({"name": name, "output": i + 1, "start": 0, "end": end, "operands": [],
            "op": {"beside": {"output": 0, "side": i}}}));
    }
    json!({
        "version": 1, "overflow": "saturate", "target": {"file": {"path": "nowhere"}},
        "sources": given.collect::<Vec<_>>(), "files": [{"path": "", "metadata": {}}], "texts": [],
        "copies": [], "outputs": outputs, "units": units,
    })
}

/// Nanoseconds of a merge for each element.
fn merge(
    plan: &str,
    isa: &Isa,
    stats: bool,
    quick: bool,
    sources: &[(String, Arc<dyn Source>)],
) -> f64 {
    let options = json!({
        "mode": "write", "threads": 1, "chunk": 1 << 20, "memory_budget": 256 << 20, "io": "auto",
        "cache": "keep", "overwrite": false, "stats": stats, "isa": isa.name(),
        "max_header_bytes": 10_000,
    });
    each(quick, SIDE * SIDE, || {
        let mut memory = sink::Memory::default();
        let sources = sources.iter().cloned().collect();
        let given = Given { sources, sink: Some(&mut memory), ..Given::default() };
        let cancel = AtomicBool::new(false);
        let done = execute_with(plan, &options.to_string(), given, &cancel, &mut |_, _| Ok(()));
        done.expect("a job that fits");
    })
}

fn main() -> io::Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let sources = ["a", "b"].map(|name| (name.to_owned(), model(name, name.len() as u64)));
    let mut table = io::stdout().lock();
    writeln!(
        table,
        "ns/element     isa      decode  encode   merge x bf16  with statistics x bf16"
    )?;
    for isa in Isa::available() {
        let mut base = [0.0; 2];
        for format in formats() {
            let [decode, encode] = codec(&format, isa, quick);
            let plan = plan(&sources, &format).to_string();
            let merges = [false, true].map(|stats| merge(&plan, isa, stats, quick, &sources));
            base = if format.name == "bf16" { merges } else { base };
            let [without, counted] = [0, 1].map(|i| merges[i] / base[i]);
            let (name, isa, [merge, with]) = (format.name, isa.name(), merges);
            writeln!(
                table,
                "{name:14} {isa:8} {decode:6.3}  {encode:6.3}  {merge:6.2} {without:6.2}  {with:15.2} {counted:6.2}"
            )?;
        }
    }
    Ok(())
}
