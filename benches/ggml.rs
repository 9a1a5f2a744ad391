//! Decoding and encoding ggml's blocks, in million elements a second for every instruction set, beside
//! BF16: tile by tile, as a merge does it, in buffers that fit the second-level cache.
//!
//! `cargo bench --bench ggml`, or with `-- --quick` one run of everything.

use std::hint::black_box;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use submerge_core::dtype::{Float, Overflow};
use submerge_core::format::codec::{Codec, Ggml, Plain, Run, Sides, Values};
use submerge_core::simd::{BLOCK, Isa};

const ELEMENTS: usize = 16 * BLOCK;
/// The best of so many rounds counts: the machine may be shared.
const ROUNDS: usize = 400;

fn rate(quick: bool, mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..if quick { 1 } else { ROUNDS } {
        let begun = Instant::now();
        work();
        best = best.min(begun.elapsed());
    }
    ELEMENTS as f64 / best.as_secs_f64() / 1e6
}

/// Bell-shaped, spread 0.02, as a trained matrix's.
fn weights() -> Vec<f32> {
    let mut seed: u64 = 1;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..ELEMENTS).map(|_| (0..4).map(|_| next()).sum::<f32>() * 0.035).collect()
}

fn measure(codec: &dyn Codec, isa: &Isa, quick: bool) -> [Option<f64>; 2] {
    let block = codec.block();
    let (values, tile) = (weights(), block.range(0..BLOCK).len());
    let mut bytes = vec![0x2A; block.range(0..ELEMENTS).len()];
    let sides = Sides::default();
    let encode = codec.writes().then(|| {
        rate(quick, || {
            for (values, out) in values.chunks(BLOCK).zip(bytes.chunks_mut(tile)) {
                let of = Values { first: 0, values, sides, overflow: Overflow::Saturate };
                codec.encode(isa, black_box(of), out);
            }
        })
    });
    let mut out = vec![f32::NAN; ELEMENTS];
    let decode = rate(quick, || {
        for (bytes, out) in bytes.chunks(tile).zip(out.chunks_mut(BLOCK)) {
            codec.decode(isa, black_box(Run { first: 0, bytes, sides }), out);
        }
    });
    if encode.is_some() {
        let error: f32 = values.iter().zip(&out).map(|(x, y)| (x - y) * (x - y)).sum();
        let all: f32 = values.iter().map(|x| x * x).sum();
        assert!(error < 0.01 * all, "{}", codec.name());
    }
    [Some(decode), encode]
}

fn main() -> io::Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let mut table = io::stdout().lock();
    writeln!(table, "format   isa       decode   x BF16   encode")?;
    for isa in Isa::available() {
        let plain: Box<dyn Codec> = Box::new(Plain(Float::BF16));
        let [base, encode] = measure(&*plain, isa, quick);
        let number = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| format!("{x:.0}"));
        let name = isa.name();
        writeln!(table, "BF16     {name:8} {:>7} {:8.2} {:>8}", number(base), 1.0, number(encode))?;
        for format in Ggml::ALL {
            let codec = format.codec();
            let [decode, encode] = measure(&*codec, isa, quick);
            let share = decode.zip(base).map_or(0.0, |(x, base)| x / base);
            let (format, decode, encode) = (codec.name(), number(decode), number(encode));
            writeln!(table, "{format:8} {name:8} {decode:>7} {share:8.2} {encode:>8}")?;
        }
    }
    Ok(())
}
