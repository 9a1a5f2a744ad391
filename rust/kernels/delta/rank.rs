//! The order of the magnitudes of one row.

/// Bits of one digit; three make a magnitude.
const DIGIT: u32 = 11;
const BINS: usize = 1 << DIGIT;
/// Rows shorter than this are sorted by comparing.
const SHORT: usize = 256;

/// Room to sort rows of one length.
pub(super) struct Ranks {
    keys: Vec<u64>,
    other: Vec<u64>,
    counts: Vec<[u32; BINS]>,
}

impl Ranks {
    pub(super) fn new(row: usize) -> Self {
        Self { keys: Vec::with_capacity(row), other: vec![0; row], counts: vec![[0; BINS]; 3] }
    }

    /// Calls `show(rank, column)` for every element, from the smallest on, of equals the lowest
    /// column first.
    pub(super) fn for_each(&mut self, magnitudes: &[u32], mut show: impl FnMut(usize, usize)) {
        let key = |(column, m): (usize, &u32)| u64::from(*m) << 32 | column as u64;
        self.keys.clear();
        self.keys.extend(magnitudes.iter().enumerate().map(key));
        if self.keys.len() < SHORT {
            self.keys.sort_unstable();
        } else {
            self.sort();
        }
        for (rank, key) in self.keys.iter().enumerate() {
            show(rank, *key as u32 as usize);
        }
    }

    /// By the digits of the magnitude, the lowest first; each step keeps the order of equals.
    fn sort(&mut self) {
        let digit = |key: u64, n: usize| (key >> (32 + DIGIT * n as u32)) as usize % BINS;
        self.counts.fill([0; BINS]);
        for key in &self.keys {
            for (n, counts) in self.counts.iter_mut().enumerate() {
                counts[digit(*key, n)] += 1;
            }
        }
        self.other.resize(self.keys.len(), 0);
        for (n, counts) in self.counts.iter_mut().enumerate() {
            if counts[digit(self.keys[0], n)] as usize == self.keys.len() {
                continue;
            }
            let mut next = 0;
            for count in counts.iter_mut() {
                (*count, next) = (next, next + *count);
            }
            for key in &self.keys {
                let at = &mut counts[digit(*key, n)];
                self.other[*at as usize] = *key;
                *at += 1;
            }
            std::mem::swap(&mut self.keys, &mut self.other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_a_stable_sort() {
        for row in [0, 1, 2, 255, 256, 3072, 5000] {
            for kind in 0..4 {
                let value = |i: u32| match kind {
                    0 => i.wrapping_mul(0x9E37_79B9) >> 1,
                    1 => i.wrapping_mul(0x9E37_79B9) >> 1 & !0xFFFF,
                    2 => i % 3,
                    _ => 7,
                };
                let magnitudes: Vec<_> = (0..row).map(value).collect();
                let mut want: Vec<_> = (0..row as usize).collect();
                want.sort_by_key(|i| magnitudes[*i]);
                let mut got = Vec::new();
                Ranks::new(row as usize).for_each(&magnitudes, |rank, column| {
                    assert_eq!(rank, got.len());
                    got.push(column);
                });
                assert_eq!(got, want, "{row} {kind}");
            }
        }
    }
}
