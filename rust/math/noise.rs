//! Random numbers that are a function of where they are used, and of nothing else.
//!
//! Philox4x32-10 turns a 64-bit key and a 128-bit counter into four words of 32 bits. Element `i` of
//! a unit takes word `i % 4` of counter `i / 4`: so any part can be made by itself, by any
//! thread, as often as it is needed, and no mask need be stored.
//!
//! Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the constants and the
//! known answers are those of Random123 1.09.

#![allow(clippy::inline_always)]

use crate::simd::{Body, Isa};

/// Counters at once: independent chains, enough to hide the multiplier's latency.
const LANES: usize = 16;
/// Words that a row of counters gives.
const ROW: usize = 4 * LANES;

/// One word of the state in every lane: the lower half. The upper half holds what is left of a
/// product, which the next one ignores: so a lane is what one instruction multiplies.
type Words = [u64; LANES];

/// Fills `out` with the words of the elements `first..` of the stream of `key`.
pub fn words(isa: &Isa, key: u64, first: u64, out: &mut [u32]) {
    isa.run(Fill { key, first, out });
}

/// The word below which lies the share `p` of all words: `floor(p 2^32)`, at most the last.
#[must_use]
#[allow(clippy::cast_sign_loss)] // no share is negative
pub fn threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32 // saturates
}

struct Fill<'a> {
    key: u64,
    first: u64,
    out: &'a mut [u32],
}

impl Body for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (keys, mut counter) = (keys(self.key), self.first / 4);
        let mut out = self.out;
        let skip = (self.first % 4) as usize;
        if skip > 0 {
            let n = out.len().min(ROW - skip);
            let (now, rest) = out.split_at_mut(n);
            now.copy_from_slice(&row(&keys, counter)[skip..skip + n]);
            (out, counter) = (rest, counter + LANES as u64);
        }
        let (rows, rest) = out.as_chunks_mut::<ROW>();
        for out in rows {
            *out = row(&keys, counter);
            counter += LANES as u64;
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&row(&keys, counter)[..rest.len()]);
        }
    }
}

/// The words of the counters `counter..`, in the order of the elements they belong to.
#[inline(always)]
fn row(keys: &[[u64; 2]; 10], counter: u64) -> [u32; ROW] {
    let (mut low, mut high) = ([0; LANES], [0; LANES]);
    for lane in 0..LANES {
        let counter = counter + lane as u64;
        (low[lane], high[lane]) = (counter, counter >> 32);
    }
    let [a, b, c, d] = philox(keys, [low, high, [0; LANES], [0; LANES]]);
    let mut row = [0; ROW];
    for lane in 0..LANES {
        row[4 * lane] = a[lane] as u32;
        row[4 * lane + 1] = b[lane] as u32;
        row[4 * lane + 2] = c[lane] as u32;
        row[4 * lane + 3] = d[lane] as u32;
    }
    row
}

/// The keys of the rounds. The low half of the key is its first word.
#[inline(always)]
fn keys(key: u64) -> [[u64; 2]; 10] {
    let mut keys = [key as u32, (key >> 32) as u32];
    std::array::from_fn(|_| {
        let now = keys.map(u64::from);
        keys = [keys[0].wrapping_add(0x9E37_79B9), keys[1].wrapping_add(0xBB67_AE85)];
        now
    })
}

/// Ten rounds.
#[inline(always)]
fn philox(keys: &[[u64; 2]; 10], counter: [Words; 4]) -> [Words; 4] {
    const WORD: u64 = 0xFFFF_FFFF;
    let [mut a, mut b, mut c, mut d] = counter;
    for keys in keys {
        for lane in 0..LANES {
            let left = (a[lane] & WORD) * 0xD251_1F53;
            let right = (c[lane] & WORD) * 0xCD9E_8D57;
            a[lane] = (right >> 32) ^ b[lane] ^ keys[0];
            b[lane] = right;
            c[lane] = (left >> 32) ^ d[lane] ^ keys[1];
            d[lane] = left;
        }
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answers_of_random123() {
        let cases: [(u64, [u32; 4], [u32; 4]); 3] = [
            (0, [0; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (u64::MAX, [u32::MAX; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                0x299f_31d0_a409_3822,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (key, counter, want) in cases {
            let got = philox(&keys(key), counter.map(|word| [word.into(); LANES]));
            let words = got.map(|words| words.map(|word| word as u32));
            assert_eq!(words, want.map(|word| [word; LANES]), "{key:#x}");
        }
    }

    #[test]
    fn a_word_depends_on_its_place_alone() {
        let first = (1 << 34) - 1000; // the counter passes 2^32 on the way
        let mut whole = vec![0; 4001];
        words(Isa::best(), 7, first, &mut whole);
        let one = |i: u64| {
            let counter = [i / 4, (i / 4) >> 32, 0, 0].map(|word| [word; LANES]);
            philox(&keys(7), counter)[(i % 4) as usize][0] as u32
        };
        for (i, word) in whole.iter().enumerate() {
            assert_eq!(*word, one(first + i as u64), "{i}");
        }
        for isa in Isa::available() {
            for (at, len) in [(0, 1), (1, 63), (3, 64), (5, 1024), (1022, 2000)] {
                let mut part = vec![0; len];
                words(isa, 7, first + at as u64, &mut part);
                assert_eq!(part, whole[at..at + len], "{} {at} {len}", isa.name());
            }
        }
    }

    #[test]
    fn thresholds_are_shares_of_all_words() {
        assert_eq!([0.0, 0.25, 0.5].map(threshold), [0, 1 << 30, 1 << 31]);
        assert_eq!([1.0_f64.next_down(), 1.0].map(threshold), [u32::MAX; 2]);
        let mut words_ = vec![0; 1 << 20];
        words(Isa::best(), 99, 0, &mut words_);
        let below = words_.iter().filter(|word| **word < threshold(0.3)).count() as f64;
        let n = f64::from(1 << 20);
        assert!((below - 0.3 * n).abs() < 5.0 * (0.3 * 0.7 * n).sqrt(), "{below}");
    }
}
