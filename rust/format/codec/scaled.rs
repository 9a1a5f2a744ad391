//! Codes of 8 bits with scales beside them: of the whole tensor, or of every row.
//!
//! `value = code * scale`, one product in f32. A code is an FP8 or a signed byte. To write,
//! `scale = largest / (the largest code)` (448, 57,344 or 127), of the largest magnitude under it.
//!
//! FP8 under one scale is `value * (1 / scale)`, rounded to f32 and then to FP8, as comfy-kitchen 0.2.40
//! does; all others are `value / scale`, to the nearest, ties to even, as it does for signed bytes and
//! diffusers 0.42 for FP8 with scales of rows. So what is written is theirs, byte for byte. The
//! quotient is a little nearer to what exact division would give: of 8.4 · 10^7 normal values the two differed
//! in 17, and it was right in 12 of them.
//!
//! In FP8 the scale is of finite values: an infinity is the largest code, or NaN where overflow is, and a NaN
//! stays one. No signed byte is a NaN, so the scale of what is no finite number is NaN, and all that
//! shares it. Zeros alone have a scale that gives zeros: 1, or 1e-30 of signed bytes (comfy-kitchen: 0
//! and NaN, or 1e-30).
//!
//! A rotation ([`super::rotation`]) may come before all this, and after it to read. `bitsandbytes` keeps
//! the largest of a row itself as its scale: `value = code * scale * (1 / 127)`.

use super::codes::{Code, Encoding, named};
use super::contract::{Block, Codec, Largest, LargestOrNone, Need, Run, Side, Sides, Values};
use super::rotation::rotate;
use crate::dtype::Float;
use crate::simd::{BLOCK, Isa};

/// One code after the other, and scales.
#[derive(Clone, Copy, Debug)]
pub struct Scaled {
    /// What the codes are.
    pub code: Code,
    /// What the scales are stored as.
    pub scale: Float,
    /// Neighbours that are rotated together; 1 if none are.
    pub rotated: usize,
    /// What a code times its scale is multiplied by.
    pub factor: f32,
    /// The key of the noise that rounds, if any does.
    pub seed: Option<u64>,
    /// The scales.
    pub side: [Side; 1],
}

impl Scaled {
    /// With a scale for every so many blocks, or for all.
    #[must_use]
    pub fn new(code: Code, scale: Float, every: Option<u64>) -> Self {
        let bytes = scale.bytes();
        let side = every.map_or(Side::Whole { bytes }, |blocks| Side::Every { blocks, bytes });
        Self { code, scale, rotated: 1, factor: 1.0, seed: None, side: [side] }
    }

    /// Calls `each` with every group of elements from block `first` on that has one scale.
    fn groups(
        &self,
        first: u64,
        elements: usize,
        sides: Sides,
        mut each: impl FnMut(std::ops::Range<usize>, f32),
    ) {
        let end = first + (elements / self.rotated) as u64;
        let at = |block: u64| (block - first) as usize * self.rotated;
        let mut block = first;
        while block < end {
            let next = self.needs().next(block).min(end);
            each(at(block)..at(next), self.scale.read(sides.entry(self.side[0], 0, block)));
            block = next;
        }
    }

    fn scale_of(&self, largest: f32) -> f32 {
        let scale = largest / self.code.largest();
        match self.code {
            Code::Float(_) if largest == 0.0 => 1.0,
            Code::Float(_) => scale.max(f32::MIN_POSITIVE),
            Code::Int if largest.is_infinite() => f32::NAN,
            Code::Int => scale.max(1e-30),
        }
    }
}

impl Codec for Scaled {
    fn name(&self) -> String {
        let mut words = vec![format!("{} scaled", self.code.name())];
        if let Side::Every { blocks, .. } = self.side[0] {
            words.push(format!("every {blocks}"));
        }
        if self.scale != Float::F32 {
            words.push(format!("in {}", self.scale.dtype().name()));
        }
        if self.factor.to_bits() != 1.0_f32.to_bits() {
            words.push(format!("times {}", self.factor));
        }
        if self.rotated > 1 {
            words.push(format!("rotated by {}", self.rotated));
        }
        named(words.join(" "), self.seed)
    }

    fn block(&self) -> Block {
        Block { elements: self.rotated, bytes: self.rotated }
    }

    fn sides(&self) -> &[Side] {
        &self.side
    }

    fn decode(&self, isa: &Isa, run: Run, out: &mut [f32]) {
        self.groups(run.first, out.len(), run.sides, |range, scale| {
            let (bytes, out) = (&run.bytes[range.clone()], &mut out[range]);
            self.code.decode(isa, bytes, [scale, self.factor], out);
            if self.rotated > 1 {
                rotate(isa, self.rotated, out);
            }
        });
    }

    fn needs(&self) -> Need {
        match self.side[0] {
            Side::Whole { .. } => Need::Whole,
            Side::Every { blocks, .. } => Need::Every { blocks },
        }
    }

    fn observe(&self, isa: &Isa, first: u64, values: &[f32], seen: &mut [f32]) {
        let largest = |values: &[f32]| match self.code {
            Code::Float(_) => isa.run(Largest(values)),
            Code::Int => isa.run(LargestOrNone(values)),
        };
        let mut turned = [0.0; BLOCK];
        self.needs().observe(first, self.rotated, values, seen, |values| {
            if self.rotated == 1 {
                return largest(values);
            }
            let of = values.chunks(BLOCK).map(|values| {
                let turned = &mut turned[..values.len()];
                turned.copy_from_slice(values);
                rotate(isa, self.rotated, turned);
                largest(turned)
            });
            of.fold(0.0, f32::max)
        });
    }

    fn fill_sides(&self, largest: &[f32], sides: &mut [Vec<u8>]) {
        for (largest, entry) in largest.iter().zip(sides[0].chunks_exact_mut(size_of::<f32>())) {
            entry.copy_from_slice(&self.scale_of(*largest).to_le_bytes());
        }
    }

    fn encode(&self, isa: &Isa, values: Values, out: &mut [u8]) {
        let Values { first, values, sides, overflow } = values;
        let mut turned = [0.0; BLOCK];
        let element = first * self.rotated as u64;
        self.groups(first, values.len(), sides, |range, scale| {
            let pieces = range.clone().step_by(BLOCK);
            for at in pieces.map(|at| at..range.end.min(at + BLOCK)) {
                let mut values = &values[at.clone()];
                if self.rotated > 1 {
                    let turned = &mut turned[..values.len()];
                    turned.copy_from_slice(values);
                    rotate(isa, self.rotated, turned);
                    values = turned;
                }
                let first = element + at.start as u64;
                let inverse =
                    matches!((self.code, self.side), (Code::Float(_), [Side::Whole { .. }]));
                let how = Encoding { scale, inverse, overflow, seed: self.seed, first };
                self.code.encode(isa, how, values, &mut out[at]);
            }
        });
    }

    /// A scale follows its largest value; only what is infinite does not fit.
    fn overflow(&self) -> f32 {
        f32::INFINITY
    }
}
