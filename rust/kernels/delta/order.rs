//! The places of the magnitudes of one row.
//!
//! Every element falls into one of some bins, which rise with the magnitude; its place is where its
//! bin begins and its turn in the bin. Differences of bf16 numbers have few values, so most bins hold
//! equals, whose turns are their columns' order; only the others are sorted.

#![allow(clippy::inline_always)]

use crate::simd::{Body, Isa};

/// The most bins of a row, for which there is always room.
const BINS: usize = 4096;
/// The fewest.
const FEWEST: usize = 16;
/// Bins with fewer elements are sorted by insertion.
const FEW: usize = 16;

/// Room to order rows.
#[derive(Default)]
pub(super) struct Ranks {
    bins: Vec<u16>,
    /// Where each bin begins; all end with the row.
    starts: Vec<u32>,
    /// The place of each element.
    places: Vec<u32>,
    /// The magnitude of each element in the upper half, its column in the lower; bin by bin.
    keys: Vec<u64>,
}

impl Ranks {
    /// The place of each element of a row: the smallest magnitude is at 0, of equals the lowest
    /// column first.
    pub(super) fn of(&mut self, isa: &Isa, magnitudes: &[u32]) -> &[u32] {
        let n = magnitudes.len();
        let count = n.next_power_of_two().clamp(FEWEST, BINS);
        let last = (count - 2) as f32;
        let scale = last / (4.0 * isa.run(Mean { magnitudes }));
        let scale = if scale.is_finite() { scale } else { 0.0 };
        self.bins.resize(n, 0);
        isa.run(Assign { magnitudes, scale, last, bins: &mut self.bins });
        self.count(count);
        self.keys.resize(n, 0);
        let Self { bins, starts, places, keys } = self;
        isa.run(Place { bins, starts, places });
        for ((place, column), m) in places.iter().zip(0_u64..).zip(magnitudes) {
            keys[*place as usize] = u64::from(*m) << 32 | column;
        }
        isa.run(SortBins { bins, starts, places, keys });
        places
    }

    /// Where the bins begin; the places are turns in them.
    fn count(&mut self, count: usize) {
        self.starts.clear();
        self.starts.resize(BINS, 0);
        self.places.resize(self.bins.len(), 0);
        let starts = &mut self.starts[..BINS];
        for (turn, bin) in self.places.iter_mut().zip(&self.bins) {
            let next = &mut starts[usize::from(*bin) % BINS];
            *turn = *next;
            *next += 1;
        }
        let mut first = 0;
        for start in &mut starts[..count] {
            (*start, first) = (first, first + *start);
        }
        starts[count..].fill(first);
        self.starts.push(first);
    }
}

/// Turns in bins become places.
struct Place<'a> {
    bins: &'a [u16],
    starts: &'a [u32],
    places: &'a mut [u32],
}

impl Body for Place<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Some(starts) = self.starts.first_chunk::<BINS>() else { return };
        for (place, bin) in self.places.iter_mut().zip(self.bins) {
            *place += starts[usize::from(*bin) % BINS];
        }
    }
}

/// Sorts the bins that are not in order, and gives their elements the right places.
struct SortBins<'a> {
    bins: &'a [u16],
    starts: &'a [u32],
    places: &'a mut [u32],
    keys: &'a mut [u64],
}

impl Body for SortBins<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const ROW: usize = 16;
        let Self { bins, starts, places, keys } = self;
        let mut at = 1;
        while at < keys.len() {
            if let Some(row) = keys[at - 1..].first_chunk::<{ ROW + 1 }>() {
                let falls = (0..ROW).map(|i| u32::from(row[i] > row[i + 1])).sum::<u32>();
                if falls == 0 {
                    at += ROW;
                    continue;
                }
            }
            if keys[at - 1] <= keys[at] {
                at += 1;
                continue;
            }
            let bin = usize::from(bins[keys[at] as u32 as usize]);
            let end = starts[bin + 1] as usize;
            let members = &mut keys[starts[bin] as usize..end];
            if members.len() < FEW {
                insert(members);
            } else {
                members.sort_unstable();
            }
            (starts[bin]..).zip(members).for_each(|(at, key)| places[*key as u32 as usize] = at);
            at = end.max(at + 1);
        }
    }
}

/// Sorts by insertion.
#[inline(always)]
fn insert(keys: &mut [u64]) {
    for i in 1..keys.len() {
        let key = keys[i];
        let mut at = i;
        while at > 0 && keys[at - 1] > key {
            keys[at] = keys[at - 1];
            at -= 1;
        }
        keys[at] = key;
    }
}

/// The mean magnitude, about.
struct Mean<'a> {
    magnitudes: &'a [u32],
}

impl Body for Mean<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let mut sums = [0.0; 16];
        let (rows, rest) = self.magnitudes.as_chunks::<16>();
        for row in rows {
            for lane in 0..16 {
                sums[lane] += f32::from_bits(row[lane]);
            }
        }
        for (sum, m) in sums.iter_mut().zip(rest) {
            *sum += f32::from_bits(*m);
        }
        sums.iter().sum::<f32>() / self.magnitudes.len() as f32
    }
}

/// The bin of each magnitude: the first holds zeros alone, the others its multiple of `scale`, at most
/// `last`. It never falls as the magnitude rises, so any scale gives the same order in the end.
struct Assign<'a> {
    magnitudes: &'a [u32],
    scale: f32,
    last: f32,
    bins: &'a mut [u16],
}

impl Body for Assign<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const WHOLE: f32 = 8_388_608.0; // f32 has no halves from here on
        for (bin, m) in self.bins.iter_mut().zip(self.magnitudes) {
            let scaled = f32::from_bits(*m) * self.scale;
            let scaled = if scaled < self.last { scaled } else { self.last }; // NaN as well
            *bin = (scaled + WHOLE).to_bits() as u16 + u16::from(*m != 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of every kind: any bits, bf16, few values, equals, what is odd, falling, an outlier.
    fn rows(n: u32) -> Vec<Vec<u32>> {
        let hash = |i: u32| i.wrapping_add(17).wrapping_mul(0x9E37_79B9);
        let odd = [f32::NAN, f32::INFINITY, 1e38, 1e-40, 0.0].map(f32::to_bits);
        let value = move |kind: u32, i: u32| match kind {
            0 => hash(i) >> 1,
            1 => (hash(i) as f32).to_bits() & !0xFFFF,
            2 => i % 3,
            3 => 7,
            4 => odd[hash(i) as usize % odd.len()],
            5 => 0,
            6 => 0x3F80_0000 - i,
            7 => (if i == 9 { 1e30 } else { (hash(i) >> 8) as f32 * 1e-9 }).to_bits(),
            // Mostly zeros, and few levels.
            _ => (((hash(i) >> 24).saturating_sub(100) / 16) as f32 * 0.01).to_bits(),
        };
        (0..9).map(|kind| (0..n).map(|i| value(kind, i)).collect()).collect()
    }

    #[test]
    fn places_are_those_of_a_stable_sort() {
        for isa in Isa::available() {
            let mut ranks = Ranks::default(); // one row after another in the same room
            for n in [1, 2, 31, 255, 256, 257, 3072, 5001, 40_000] {
                for (kind, magnitudes) in rows(n).iter().enumerate() {
                    let mut want: Vec<_> = (0..n as usize).collect();
                    want.sort_by_key(|column| magnitudes[*column]);
                    let mut got = vec![0; n as usize];
                    for (column, place) in ranks.of(isa, magnitudes).iter().enumerate() {
                        got[*place as usize] = column;
                    }
                    assert!(got == want, "{n} {kind} {}", isa.name());
                }
            }
        }
    }
}
