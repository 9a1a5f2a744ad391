//! The order of the magnitudes of one row.

#![allow(clippy::inline_always)]

use crate::simd::{Body, Isa};

/// Bins of a row: most hold one element, or equals.
const BINS: usize = 4096;
/// Bins with more elements than this are sorted by comparing, unless they are in order.
const CROWD: u32 = 16;
/// So are rows shorter than this.
const SHORT: usize = 256;

/// Room to sort rows.
#[derive(Default)]
pub(super) struct Ranks {
    keys: Vec<u64>,
    bins: Vec<u16>,
    next: Vec<u32>,
}

impl Ranks {
    /// The elements of a row, from the smallest on, of equals the lowest column first: the magnitude
    /// in the upper half, the column in the lower.
    pub(super) fn of(&mut self, isa: &Isa, magnitudes: &[u32]) -> &[u64] {
        let key = |(column, m): (usize, &u32)| u64::from(*m) << 32 | column as u64;
        if magnitudes.len() < SHORT {
            self.keys.clear();
            self.keys.extend(magnitudes.iter().enumerate().map(key));
            self.keys.sort_unstable();
            return &self.keys;
        }
        self.bin(isa, magnitudes);
        self.keys.resize(magnitudes.len(), 0);
        for (element, bin) in magnitudes.iter().enumerate().zip(&self.bins) {
            let next = &mut self.next[usize::from(*bin) % BINS];
            self.keys[*next as usize] = key(element);
            *next += 1;
        }
        let mut first = 0;
        for end in &self.next {
            if end - first > CROWD {
                let crowd = &mut self.keys[first as usize..*end as usize];
                if !crowd.is_sorted() {
                    crowd.sort_unstable();
                }
            }
            first = *end;
        }
        self.insert();
        &self.keys
    }

    /// Puts every element in a bin, most of them evenly, the largest in the last; and counts where
    /// the elements of each bin begin.
    fn bin(&mut self, isa: &Isa, magnitudes: &[u32]) {
        self.bins.resize(magnitudes.len(), 0);
        let scale = BINS as f32 / (4.0 * isa.run(Mean { magnitudes }));
        let scale = if scale.is_finite() { scale } else { 0.0 };
        isa.run(Assign { magnitudes, scale, bins: &mut self.bins });
        self.next.clear();
        self.next.resize(BINS, 0);
        for bin in &self.bins {
            self.next[usize::from(*bin) % BINS] += 1;
        }
        let mut first = 0;
        for next in &mut self.next {
            (*next, first) = (first, first + *next);
        }
    }

    /// Sorts by insertion: nobody is far from their place.
    fn insert(&mut self) {
        let keys = &mut self.keys[..];
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
        let (rows, _) = self.magnitudes.as_chunks::<16>();
        for row in rows {
            for lane in 0..16 {
                sums[lane] += f32::from_bits(row[lane]);
            }
        }
        sums.iter().sum::<f32>() / (16 * rows.len()) as f32
    }
}

/// The bin of each magnitude: its multiple of `scale`, at most the last. It never falls as the
/// magnitude rises, so any scale gives the same order in the end.
struct Assign<'a> {
    magnitudes: &'a [u32],
    scale: f32,
    bins: &'a mut [u16],
}

impl Body for Assign<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const LAST: f32 = (BINS - 1) as f32;
        const WHOLE: f32 = 8_388_608.0; // f32 has no halves from here on
        for (bin, m) in self.bins.iter_mut().zip(self.magnitudes) {
            let scaled = f32::from_bits(*m) * self.scale;
            let scaled = if scaled < LAST { scaled } else { LAST }; // NaN as well
            *bin = (scaled + WHOLE).to_bits() as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_a_stable_sort() {
        let hash = |i: u32| i.wrapping_add(17).wrapping_mul(0x9E37_79B9);
        let odd = [f32::NAN, f32::INFINITY, 1e38, 1e-40, 0.0].map(f32::to_bits);
        for row in [0, 1, 2, 255, 256, 257, 3072, 5001] {
            for kind in 0..8 {
                let value = |i: u32| match kind {
                    0 => hash(i) >> 1,
                    1 => (hash(i) as f32).to_bits() & !0xFFFF,
                    2 => i % 3,
                    3 => 7,
                    4 => odd[hash(i) as usize % odd.len()],
                    5 => 0,
                    6 => 0x3F80_0000 - i,
                    // One outlier among weights.
                    _ => (if i == 9 { 1e30 } else { (hash(i) >> 8) as f32 * 1e-9 }).to_bits(),
                };
                let magnitudes: Vec<_> = (0..row).map(value).collect();
                let mut want: Vec<_> = (0..row).collect();
                want.sort_by_key(|i| magnitudes[*i as usize]);
                for isa in Isa::available() {
                    let mut ranks = Ranks::default();
                    let got: Vec<_> =
                        ranks.of(isa, &magnitudes).iter().map(|key| *key as u32).collect();
                    assert_eq!(got, want, "{row} {kind} {}", isa.name());
                }
            }
        }
    }
}
