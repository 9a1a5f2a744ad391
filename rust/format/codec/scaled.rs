//! FP8 with scales beside it: of the whole tensor, or of every row.
//!
//! `value = element * scale`, one product in f32. To write, `scale = largest / (the format's largest)`
//! (448 or 57,344) of the largest finite magnitude under it, and each element is `value / scale`,
//! rounded to f32 and then to FP8. Source: `float8_e4m3fn` with `weight_scale` as `ComfyUI` and torchao
//! write it; they differ in how the quotient is rounded, and their scales of zeros in what is no zero.

use super::contract::{Block, Codec, Need, Run, Side, Sides, Values};
use crate::dtype::Float;
use crate::simd::{BLOCK, Isa};

/// One FP8 after the other, and F32 scales.
#[derive(Clone, Copy, Debug)]
pub struct Scaled {
    float: Float,
    side: [Side; 1],
}

impl Scaled {
    /// With a scale for every so many elements, or for all.
    #[must_use]
    pub fn new(float: Float, every: Option<u64>) -> Self {
        let bytes = size_of::<f32>();
        let side = every.map_or(Side::Whole { bytes }, |blocks| Side::Every { blocks, bytes });
        Self { float, side: [side] }
    }

    /// Calls `each` with every group of `elements` elements from `first` on that has one scale.
    fn groups(
        &self,
        first: u64,
        elements: usize,
        sides: Sides,
        mut each: impl FnMut(std::ops::Range<usize>, f32),
    ) {
        let end = first + elements as u64;
        let mut at = first;
        while at < end {
            let next = self.needs().next(at);
            let bytes = sides.entry(self.side[0], 0, at).try_into();
            let scale = bytes.map_or(f32::NAN, f32::from_le_bytes);
            each((at - first) as usize..(next.min(end) - first) as usize, scale);
            at = next;
        }
    }
}

impl Codec for Scaled {
    fn name(&self) -> String {
        let name = self.float.dtype().name();
        match self.side[0] {
            Side::Whole { .. } => format!("{name} scaled"),
            Side::Every { blocks, .. } => format!("{name} scaled every {blocks}"),
        }
    }

    fn block(&self) -> Block {
        Block { elements: 1, bytes: 1 }
    }

    fn sides(&self) -> &[Side] {
        &self.side
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        isa.decode(self.float, run.bytes, out);
        self.groups(run.first, out.len(), run.sides, |range, scale| {
            out[range].iter_mut().for_each(|value| *value *= scale);
        });
    }

    fn needs(&self) -> Need {
        match self.side[0] {
            Side::Whole { .. } => Need::Whole,
            Side::Every { blocks, .. } => Need::Every { blocks },
        }
    }

    fn fill_sides(&self, largest: &[f32], sides: &mut [Vec<u8>]) {
        for (largest, entry) in largest.iter().zip(sides[0].chunks_exact_mut(size_of::<f32>())) {
            let scale = (largest / self.float.largest()).max(f32::MIN_POSITIVE);
            let scale = if *largest == 0.0 { 1.0 } else { scale }; // of zeros alone
            entry.copy_from_slice(&scale.to_le_bytes());
        }
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        let Values { first, values, sides, overflow } = values;
        let mut quotients = [0.0; BLOCK];
        self.groups(first, values.len(), sides, |range, scale| {
            let pieces = values[range.clone()].chunks(BLOCK).zip(out[range].chunks_mut(BLOCK));
            for (values, out) in pieces {
                let quotients = &mut quotients[..values.len()];
                quotients.iter_mut().zip(values).for_each(|(q, value)| *q = value / scale);
                isa.encode(self.float, overflow, quotients, out);
            }
        });
    }

    /// A scale follows its largest value; only what is infinite does not fit.
    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}
