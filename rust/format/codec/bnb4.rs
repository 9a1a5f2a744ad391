//! What `bitsandbytes` makes of 4 bits, NF4 and FP4: read, never written.
//!
//! `value = book[code] * largest of the block`, one product in f32. Blocks run over the flattened tensor, whatever
//! its rows; the last may be short. The first of two elements is in the high bits. Nested, the largest of a block is
//! itself a code: `other book[code] * largest of 256 of them + offset`, each step in f32. Both books are in the file.
//! Source: `bitsandbytes` 0.50.2, `functional.dequantize_4bit`.

use super::contract::{Block, Codec, Run, Side, Sides, Values};
use crate::dtype::Float;
use crate::simd::Isa;

/// Entries of the books.
const CODES: usize = 16;
const OTHER_CODES: usize = 256;

/// How the largest of each block is itself written.
#[derive(Clone, Copy, Debug)]
pub struct Nested {
    /// How many of them are a block.
    pub blocks: u64,
    /// What is added to each.
    pub offset: f32,
}

/// One code after the other; what stands beside them.
#[derive(Clone, Debug)]
pub struct Bnb4 {
    shape: [u64; 2],
    nested: Option<Nested>,
    sides: Vec<Side>,
}

impl Bnb4 {
    /// Of so many rows and columns, in blocks of so many elements, an even number.
    #[must_use]
    pub fn new(shape: [u64; 2], block: u64, nested: Option<Nested>) -> Self {
        let blocks = (block / 2).max(1);
        let whole = |codes: usize| Side::Whole { bytes: codes * size_of::<f32>() };
        let each = |blocks: u64, bytes: usize| Side::Every { blocks, bytes };
        let sides = match nested {
            None => vec![each(blocks, size_of::<f32>()), whole(CODES)],
            Some(Nested { blocks: n, .. }) => {
                let outer = each(blocks.saturating_mul(n), size_of::<f32>());
                vec![each(blocks, 1), whole(CODES), outer, whole(OTHER_CODES)]
            }
        };
        Self { shape, nested, sides }
    }

    /// The largest of the block that holds these two elements.
    fn largest(&self, sides: Sides, pair: u64) -> f32 {
        let entry = sides.entry(self.sides[0], 0, pair);
        let Some(Nested { offset, .. }) = self.nested else { return Float::F32.read(entry) };
        let code = usize::from(entry.first().copied().unwrap_or(0));
        let outer = Float::F32.read(sides.entry(self.sides[2], 2, pair));
        let book = sides.entry(self.sides[3], 3, pair);
        Float::F32.read(book.get(4 * code..4 * code + 4).unwrap_or_default()) * outer + offset
    }
}

impl Codec for Bnb4 {
    fn name(&self) -> String {
        let Self { shape, nested, sides } = self;
        format!("bitsandbytes 4 bits {shape:?} {nested:?} {:?}", sides[0])
    }

    /// Two elements share a byte.
    fn block(&self) -> Block {
        Block { elements: 2, bytes: 1 }
    }

    fn sides(&self) -> &[Side] {
        &self.sides
    }

    fn shape(&self) -> Option<[u64; 2]> {
        Some(self.shape)
    }

    fn decode(&self, _: &Isa, run: Run, out: &mut [f32]) {
        let mut book = [0.0; CODES];
        let bytes = run.sides.entry(self.sides[1], 1, run.first);
        book.iter_mut()
            .zip(bytes.chunks_exact(4))
            .for_each(|(x, bytes)| *x = Float::F32.read(bytes));
        let Side::Every { blocks, .. } = self.sides[0] else { return };
        let (pairs, _) = out.as_chunks_mut::<2>();
        let (mut pair, end) = (run.first, run.first + pairs.len() as u64);
        while pair < end {
            let next = ((pair / blocks + 1) * blocks).min(end);
            let largest = self.largest(run.sides, pair);
            let values = book.map(|x| x * largest);
            let range = (pair - run.first) as usize..(next - run.first) as usize;
            for (byte, out) in run.bytes[range.clone()].iter().zip(&mut pairs[range]) {
                *out = [values[usize::from(byte >> 4)], values[usize::from(byte & 0xF)]];
            }
            pair = next;
        }
    }

    fn encode(&self, _: &Isa, _: Values, _: &mut [u8]) {
        // A plan that wants it written is refused.
    }

    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}
