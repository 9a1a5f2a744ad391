//! Elements that stand alone, each a float.

use super::contract::{Block, Codec, Run, Values};
use crate::dtype::Float;
use crate::simd::{Isa, Written};

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
