//! A bit for each element: whether it was chosen.

/// Elements of a word.
pub(super) const WORD: usize = 32;

/// One bit for each element, the first in the lowest bit of the first word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u32>,
    len: usize,
}

impl Bits {
    /// How many elements there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }

    #[cfg(test)]
    fn has(&self, at: usize) -> bool {
        self.words[at / WORD] >> (at % WORD) & 1 == 1
    }

    /// Adds `len` elements; what `words` hold beyond them is 0.
    pub(super) fn push(&mut self, words: &[u32], len: usize) {
        let filled = self.len % WORD;
        if filled == 0 {
            self.words.extend_from_slice(words);
        } else {
            for word in words {
                // The last word has room left.
                if let Some(last) = self.words.last_mut() {
                    *last |= word << filled;
                }
                self.words.push(word >> (WORD - filled));
            }
        }
        self.len += len;
        self.words.truncate(self.len.div_ceil(WORD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_follow_one_another() {
        let (mut bits, mut want) = (Bits::default(), Vec::new());
        for (row, len) in [1, 31, 32, 33, 64, 0, 95, 7, 3072].into_iter().enumerate() {
            let has = |i: usize| (i * i + row).is_multiple_of(3);
            let word = |at: usize| {
                (at..len.min(at + WORD)).fold(0, |word, i| word | u32::from(has(i)) << (i - at))
            };
            let words: Vec<_> = (0..len).step_by(WORD).map(word).collect();
            bits.push(&words, len);
            want.extend((0..len).map(has));
            assert_eq!((bits.len(), bits.words().len()), (want.len(), want.len().div_ceil(WORD)));
        }
        assert!(want.iter().enumerate().all(|(i, want)| bits.has(i) == *want));
    }
}
