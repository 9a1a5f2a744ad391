//! Elements that stand alone, each a float.

use super::codes::{Code, named};
use super::contract::{Block, Codec, Run, Values};
use crate::dtype::Float;
use crate::simd::{BLOCK, Isa, Written};

/// One float after the other.
#[derive(Clone, Copy, Debug)]
pub struct Plain(pub Float);

impl Codec for Plain {
    fn name(&self) -> String {
        self.0.dtype().name().to_owned()
    }

    fn block(&self) -> Block {
        Block { elements: 1, bytes: self.0.bytes() }
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        isa.decode(self.0, run.bytes, out);
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        isa.encode(self.0, values.overflow, values.values, out);
    }

    fn overflow(&self) -> f32 {
        self.0.overflow()
    }

    /// In one pass, without a decoded copy.
    fn written(&self, isa: &Isa, run: Run, reference: &[f32]) -> Written {
        isa.written(self.0, run.bytes, reference)
    }
}

/// One FP8 after the other, written with noise instead of to the nearest.
#[derive(Clone, Copy, Debug)]
pub struct PlainAtRandom {
    /// What they are.
    pub float: Float,
    /// The key of the noise.
    pub seed: u64,
}

impl Codec for PlainAtRandom {
    fn name(&self) -> String {
        named(self.float.dtype().name().to_owned(), Some(self.seed))
    }

    fn block(&self) -> Block {
        Block { elements: 1, bytes: 1 }
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        isa.decode(self.float, run.bytes, out);
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        let Values { first, values, overflow, .. } = values;
        let pieces = values.chunks(BLOCK).zip(out.chunks_mut(BLOCK));
        for (first, (values, out)) in (first..).step_by(BLOCK).zip(pieces) {
            let code = Code::Float(self.float);
            code.encode_at_random(isa, (self.seed, first), overflow, values, out);
        }
    }

    fn overflow(&self) -> f32 {
        self.float.overflow()
    }
}
