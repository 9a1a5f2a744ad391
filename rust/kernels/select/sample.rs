//! Some of the magnitudes of a stream: short runs all over it.

use std::ops::Range;

/// Elements of a sample, about; a stream no longer than this is its own.
pub const SAMPLE: u64 = 1 << 17;
/// Elements that are sampled side by side.
const RUN: u64 = 256;
/// The runs of a stream of `elements` that are sampled, as far as they lie in `part`.
pub fn sampled(elements: u64, part: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let stride = (elements / (SAMPLE / RUN)).max(1);
    let whole = elements <= SAMPLE;
    let strides = part.start / stride..part.end.div_ceil(stride).min(SAMPLE / RUN);
    let run = move |k: u64| {
        // Somewhere in each stride: rows must not be met at the same columns again and again.
        let at = ((k.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) * stride.saturating_sub(RUN)) >> 32;
        let first = k * stride + at;
        if whole { part.clone() } else { first.max(part.start)..(first + RUN).min(part.end) }
    };
    let strides = if whole { 0..1 } else { strides };
    strides.map(run).filter(|run| !run.is_empty())
}

/// Some of the magnitudes of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub(super) elements: u64,
    pub(super) magnitudes: Vec<u32>,
    pub(super) zeros: u64,
}

impl Sample {
    /// Empty, of a stream of `elements`.
    #[must_use]
    pub fn new(elements: u64) -> Self {
        Self { elements, magnitudes: Vec::new(), zeros: 0 }
    }

    /// How many elements the stream has.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// How many of the magnitudes that were shown are 0.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The next of the stream, or of its runs.
    pub fn add(&mut self, first: u64, magnitudes: &[u32]) {
        for run in sampled(self.elements, first..first + magnitudes.len() as u64) {
            let run = (run.start - first) as usize..(run.end - first) as usize;
            self.magnitudes.extend_from_slice(&magnitudes[run]);
        }
        self.zeros += magnitudes.iter().filter(|m| **m == 0).count() as u64;
    }

    /// Adds the sample of what follows.
    pub fn merge(&mut self, next: &Self) {
        self.magnitudes.extend(&next.magnitudes);
        self.zeros += next.zeros;
    }
}
