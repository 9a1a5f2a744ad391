use super::*;

/// The whole search over one stream.
fn search(rank: u64, magnitudes: &[u32]) -> (Cut, usize) {
    let isa = Isa::best();
    let mut sample = Tally::default();
    magnitudes.chunks(BLOCK).for_each(|block| sample.sample(block));
    let mut target = Target::new(0, rank, &sample);
    let mut looks = 1;
    while target.cut().is_none() {
        let mut total = Tally::default();
        for (i, part) in magnitudes.chunks(8 * BLOCK).enumerate() {
            let mut tally = Tally::default();
            for (j, block) in part.chunks(BLOCK).enumerate() {
                target.count(isa, ((8 * i + j) * BLOCK) as u64, block, &mut tally);
            }
            total.merge(&tally);
        }
        target = target.learn(&total);
        looks += 1;
    }
    (target.cut().expect("an end"), looks)
}

fn kept(cut: Cut, magnitudes: &[u32]) -> Vec<bool> {
    let block = |(i, block): (usize, &[u32])| {
        let place = cut.place((i * BLOCK) as u64, block.len(), |i| block[i]);
        let keep = |(i, m): (usize, &u32)| *m > cut.bits || *m == cut.bits && i < place;
        block.iter().enumerate().map(keep).collect::<Vec<_>>()
    };
    magnitudes.chunks(BLOCK).enumerate().flat_map(block).collect()
}

/// By sorting everything.
fn naive(rank: u64, magnitudes: &[u32]) -> Vec<bool> {
    let mut order: Vec<_> = (0..magnitudes.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(magnitudes[*i]), *i));
    let mut kept = vec![false; magnitudes.len()];
    order[..rank as usize].iter().for_each(|i| kept[*i] = true);
    kept
}

fn hash(i: usize) -> u32 {
    ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

#[test]
fn the_largest_are_those_of_a_sort() {
    let n = 70_003;
    let streams: [(&str, Vec<u32>); 6] = [
        ("any bits", (0..n).map(|i| hash(i) >> 1).collect()),
        ("weights", (0..n).map(|i| (hash(i) as f32 / 4e9 * 0.01).to_bits()).collect()),
        ("bf16", (0..n).map(|i| (hash(i) as f32).to_bits() & !0xFFFF).collect()),
        ("three values", (0..n).map(|i| [0, 1, i32::MAX as u32][hash(i) as usize % 3]).collect()),
        ("equal", vec![0x3F80_0001; n]),
        ("rising", (0..n as u32).collect()),
    ];
    for (name, magnitudes) in streams {
        for rank in [0, 1, 2, 7, 700, 35_001, 60_000, 70_001, 70_002, 70_003] {
            let (cut, looks) = search(rank, &magnitudes);
            assert!(looks <= LOOKS, "{name} {rank}: {looks} looks");
            let got = kept(cut, &magnitudes);
            if cut.bits == 0 {
                let some = |m: &u32| *m > 0;
                let all = got.iter().zip(&magnitudes).filter(|(_, m)| some(m)).all(|(k, _)| *k);
                assert!(all, "{name} {rank}");
            } else {
                assert!(got == naive(rank, &magnitudes), "{name} {rank}");
            }
        }
    }
}

#[test]
fn a_guess_that_misses_costs_looks_and_nothing_else() {
    // Every sampled element is small, all others are large.
    let magnitudes: Vec<_> =
        (0..20_000).map(|i| if i % SAMPLE == 0 { i as u32 } else { hash(i) >> 1 }).collect();
    let (cut, looks) = search(10_000, &magnitudes);
    assert!((4..=LOOKS).contains(&looks), "{looks}");
    assert!(kept(cut, &magnitudes) == naive(10_000, &magnitudes));
}

#[test]
fn the_value_at_a_rank_is_that_of_the_sorted_stream() {
    for magnitudes in [
        (0..5000).map(|i| hash(i) >> 1).collect::<Vec<_>>(),
        (0..5000).map(|i| hash(i) % 3).collect(),
        vec![7],
        (0..40).rev().collect(),
    ] {
        let mut sorted = magnitudes.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let n = sorted.len() as u64;
        for rank in [1, n / 4 + 1, n / 2 + 1, n - n / 4, n] {
            let mut sample = Tally::default();
            magnitudes.chunks(BLOCK).for_each(|block| sample.sample(block));
            let (mut target, mut looks) = (Target::value(0, rank, &sample), 1);
            while target.cut().is_none() {
                let mut tally = Tally::default();
                for (i, block) in magnitudes.chunks(BLOCK).enumerate() {
                    target.count(Isa::best(), (i * BLOCK) as u64, block, &mut tally);
                }
                target = target.learn(&tally);
                looks += 1;
            }
            assert!(looks <= LOOKS_FOR_VALUE, "{rank} of {n}: {looks} looks");
            let found = target.cut().expect("an end").bits;
            assert_eq!(found, sorted[rank as usize - 1], "{rank} of {n}");
        }
    }
}

#[test]
fn equals_far_apart_are_cut_in_two_looks() {
    // A stream of 2^31 elements, more blocks than there are bins; all but these are 0.
    let equals = [5_u64, 6 * BLOCK as u64 + 1, (1 << 30) + 7, (1 << 30) + 8, (1 << 31) - 1];
    let magnitude = |i: u64| 9 * u32::from(equals.contains(&i));
    let start = |i: u64| i / BLOCK as u64 * BLOCK as u64;
    for left in 1..equals.len() {
        let bins = Bins::over(0, (1 << 31) - 1, BLOCK_SHIFT);
        let stage = Stage::Equals { bits: 9, left: left as u64, bins };
        let mut target = Target { stream: 0, rank: 0, members: true, stage };
        let mut looks = 0;
        while target.cut().is_none() {
            let mut tally = Tally::default();
            let firsts: std::collections::BTreeSet<_> = equals.iter().map(|i| start(*i)).collect();
            for first in firsts {
                let block: Vec<_> = (first..first + BLOCK as u64).map(magnitude).collect();
                target.count(Isa::best(), first, &block, &mut tally);
            }
            target = target.learn(&tally);
            looks += 1;
        }
        assert_eq!(looks, 2, "{left}");
        let cut = target.cut().expect("an end");
        for (n, i) in equals.iter().enumerate() {
            let place = cut.place(start(*i), BLOCK, |at| magnitude(start(*i) + at as u64));
            assert_eq!(start(*i) + place as u64 > *i, n < left, "{left} {i}");
        }
    }
}
