//! A search for the ends of sets of the largest, pass by pass.

use std::ops::{ControlFlow, Range};

use super::sample::{Sample, sampled};
use super::tally::Tally;
use super::target::{Cut, Target};
use crate::kernels::kernel::Sums;
use crate::simd::Isa;

/// What a pass of a search sums: samples of the streams first, then counts for each set.
#[derive(Clone, Debug, Default)]
pub struct Search {
    samples: Vec<Sample>,
    counts: Vec<(Target, Tally)>,
}

impl Search {
    /// The first pass over so many streams of so many elements each.
    #[must_use]
    pub fn sample(streams: usize, elements: u64) -> Self {
        Self { samples: vec![Sample::new(elements); streams], counts: Vec::new() }
    }

    /// Whether only samples are wanted.
    #[must_use]
    pub fn is_sampling(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether there is something to count in a stream.
    #[must_use]
    pub fn wants(&self, stream: usize) -> bool {
        let open =
            |(target, _): &(Target, Tally)| target.stream == stream && target.cut().is_none();
        self.is_sampling() || self.counts.iter().any(open)
    }

    /// Adds magnitudes that follow one another in a stream.
    pub fn add(&mut self, isa: &Isa, stream: usize, first: u64, magnitudes: &[u32]) {
        if let Some(sample) = self.samples.get_mut(stream) {
            sample.add(first, magnitudes);
        }
        for (target, tally) in &mut self.counts {
            if target.stream == stream && target.cut().is_none() {
                target.count(isa, first, magnitudes, tally);
            }
        }
    }

    /// The elements of `part` that must be seen.
    #[must_use]
    pub fn spans(&self, part: Range<u64>) -> Vec<Range<u64>> {
        if let Some(sample) = self.samples.first() {
            return sampled(sample.elements(), part).collect();
        }
        let seen = |(target, _): &(Target, Tally)| {
            let span = target.span();
            span.start.max(part.start)..span.end.min(part.end)
        };
        let mut spans: Vec<_> = self.counts.iter().map(seen).filter(|s| !s.is_empty()).collect();
        spans.sort_unstable_by_key(|span| span.start);
        spans.dedup_by(|next, span| {
            let touches = next.start <= span.end;
            span.end = if touches { span.end.max(next.end) } else { span.end };
            touches
        });
        spans
    }

    /// The next pass, or the ends of all sets with their streams; after the samples `targets` says which
    /// sets of a stream there are.
    pub fn next(
        self,
        mut targets: impl FnMut(usize, &Sample) -> Vec<Target>,
    ) -> ControlFlow<Vec<(usize, Cut)>, Self> {
        let sampled = self.samples.iter().enumerate().flat_map(|(i, sample)| targets(i, sample));
        let counted = self.counts.iter().map(|(target, tally)| target.learn(tally));
        let targets: Vec<_> = sampled.chain(counted).collect();
        let end = |target: &Target| Some((target.stream, target.cut()?));
        if let Some(ends) = targets.iter().map(end).collect() {
            return ControlFlow::Break(ends);
        }
        let tally = Tally::new(targets.len() as u64);
        let counts = targets.into_iter().map(|target| (target, tally.clone())).collect();
        ControlFlow::Continue(Self { samples: Vec::new(), counts })
    }
}

impl Sums for Search {
    fn is_exact(&self) -> bool {
        true
    }

    fn flush(&mut self) {
        self.counts.iter_mut().for_each(|(_, tally)| tally.flush());
    }

    fn add_next(&mut self, next: Self) {
        self.samples.iter_mut().zip(&next.samples).for_each(|(sum, next)| sum.merge(next));
        let counts = self.counts.iter_mut().zip(&next.counts);
        counts.for_each(|((_, sum), (_, next))| sum.merge(next));
    }
}
