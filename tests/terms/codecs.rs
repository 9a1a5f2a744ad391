//! The room for number formats whose elements share bytes: a codec with blocks and side tensors of
//! its own, read through whatever range is asked for.

use std::sync::Arc;

use submerge_core::dtype::{Dtype, Float, Overflow};
use submerge_core::format::codec::{Block, Codec, Plain, Run, Side, Sides, Values};
use submerge_core::io::source::{Memory, Source};
use submerge_core::resolve::Rows;
use submerge_core::resolve::rows::Room;
use submerge_core::simd::{BLOCK, Isa};

/// Blocks of 8 elements in 9 bytes (an exponent, then signed bytes); a scale for every 3 blocks and
/// one for all, in F32.
#[derive(Debug)]
struct Grouped;

const SIDES: [Side; 2] = [Side::Every { blocks: 3, bytes: 4 }, Side::Whole { bytes: 4 }];

fn float(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))
}

impl Codec for Grouped {
    fn name(&self) -> String {
        "grouped".into()
    }

    fn block(&self) -> Block {
        Block { elements: 8, bytes: 9 }
    }

    fn sides(&self) -> &[Side] {
        &SIDES
    }

    fn decode(&self, _: &Isa, run: Run, out: &mut [f32]) {
        for (i, (block, out)) in run.bytes.chunks_exact(9).zip(out.chunks_exact_mut(8)).enumerate()
        {
            let entry = |side: usize| run.sides.entry(SIDES[side], side, run.first + i as u64);
            let scale = float(entry(0)) * float(entry(1));
            let power = f32::from(block[0]).exp2();
            for (value, code) in out.iter_mut().zip(&block[1..]) {
                *value = f32::from(code.cast_signed()) * power * scale;
            }
        }
    }

    fn encode(&self, _: &Isa, _: Values, _: &mut [u8]) {
        unreachable!("only read here")
    }

    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}

const BLOCKS: usize = 200;

/// The payload, its two side tensors and every value.
fn grouped() -> (Vec<u8>, [Vec<u8>; 2], Vec<f32>) {
    let payload: Vec<u8> = (0..BLOCKS * 9)
        .map(|i| if i % 9 == 0 { (i % 5) as u8 } else { (i * 37 % 251) as u8 })
        .collect();
    let scales: Vec<f32> = (0..BLOCKS.div_ceil(3)).map(|i| 1.0 + i as f32 / 8.0).collect();
    let values = (0..BLOCKS * 8).map(|i| {
        let block = i / 8;
        let code = payload[block * 9 + 1 + i % 8].cast_signed();
        f32::from(code) * f32::from(payload[block * 9]).exp2() * (scales[block / 3] * 0.5)
    });
    let values = values.collect();
    let bytes = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
    (payload, [bytes, 0.5_f32.to_le_bytes().to_vec()], values)
}

#[test]
fn any_range_of_elements_is_read_with_what_belongs_to_it() {
    let (payload, [scales, scale], expected) = grouped();
    let memory = |name: &str, bytes: &[u8]| -> Arc<dyn Source> {
        // Nothing begins where its source does.
        Arc::new(Memory::new(name, "", [&[9; 13][..], bytes].concat().into()))
    };
    let sources = [memory("payload", &payload), memory("scales", &scales), memory("one", &scale)];
    for skipped in [0, 1, 2, 3, 7] {
        let rows = Rows {
            source: 0,
            at: 13 + skipped as u64 * 9,
            elements: ((BLOCKS - skipped) * 8) as u64,
            first: skipped as u64,
            dtype: Dtype::U8,
            codec: Some(Arc::new(Grouped)),
            sides: vec![(1, 13), (2, 13)],
        };
        let expected = &expected[skipped * 8..];
        let all = rows.elements;
        for (open, wanted) in [
            (0..all, 0..all),
            (0..all, 5..6),
            (16..40, 16..40),
            (17..39, 17..39),
            (17..39, 20..23),
            (all - 1..all, all - 1..all),
            (3..all - 3, 400..777),
        ] {
            let mut buffers = vec![Vec::new(); rows.windows()];
            let window = rows.open(&sources, open.clone(), &mut buffers.iter_mut());
            let window = window.expect("windows of memory");
            let mut out = vec![f32::NAN; (wanted.end - wanted.start) as usize];
            window.decode(Isa::best(), wanted.clone(), &mut Room::default(), &mut out);
            let range = wanted.start as usize..wanted.end as usize;
            assert_eq!(out, expected[range], "{skipped} {open:?} {wanted:?}");
        }
    }
}

/// A float without the short cut of its own.
#[derive(Debug)]
struct Slow(Plain);

impl Codec for Slow {
    fn name(&self) -> String {
        self.0.name()
    }
    fn block(&self) -> Block {
        self.0.block()
    }
    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        self.0.decode(isa, run, out);
    }
    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        self.0.encode(isa, values, out);
    }
    fn overflow(&self) -> f32 {
        self.0.overflow()
    }
}

#[test]
fn what_was_written_is_compared_alike_with_and_without_the_short_cut() {
    let isa = Isa::best();
    let values: Vec<f32> =
        (0..BLOCK as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9))).collect();
    for float in Float::ALL.iter().copied() {
        let (fast, slow) = (Plain(float), Slow(Plain(float)));
        let mut bytes = vec![0; fast.block().range(0..BLOCK).len()];
        let sides = Sides::default();
        let of = Values { first: 0, values: &values, sides, overflow: Overflow::Nan };
        fast.encode(isa, of, &mut bytes);
        let mut decoded = vec![0.0; BLOCK];
        let run = Run { first: 0, bytes: &bytes, sides };
        fast.decode(isa, run, &mut decoded);
        for reference in [&values, &decoded] {
            let (a, b) = (fast.written(isa, run, reference), slow.written(isa, run, reference));
            assert_eq!((a.changed, a.nonfinite), (b.changed, b.nonfinite), "{float:?}");
            assert!(b.at_limit || !a.at_limit, "{float:?}");
        }
    }
}

#[test]
fn blocks_of_every_dtype_are_whole_bytes() {
    for dtype in Dtype::ALL.iter().copied() {
        let block = Block::of(dtype);
        assert_eq!(block.elements as u64 * dtype.bits(), 8 * block.bytes as u64);
        for elements in 0..50 {
            let bits = elements * dtype.bits();
            assert_eq!(
                block.len(elements),
                bits.is_multiple_of(8).then_some(bits / 8),
                "{dtype:?}"
            );
        }
    }
    assert_eq!(Block { elements: 32, bytes: 34 }.range(31..33), 0..68);
    assert_eq!(Block { elements: 32, bytes: 34 }.whole(31..33), 0..64);
}
