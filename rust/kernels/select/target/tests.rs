use super::super::sample::sampled;
use super::*;
use crate::simd::BLOCK;

/// Elements of an item of a schedule.
const ITEM: usize = 8 * BLOCK;

/// One pass over a whole stream, item by item.
fn pass(target: &Target, targets: u64, magnitudes: &[u32]) -> Tally {
    let mut total = Tally::new(targets);
    for (i, item) in magnitudes.chunks(ITEM).enumerate() {
        let mut tally = Tally::new(targets);
        for (j, block) in item.chunks(BLOCK).enumerate() {
            target.count(Isa::best(), (i * ITEM + j * BLOCK) as u64, block, &mut tally);
        }
        tally.flush();
        total.merge(&tally);
    }
    total
}

/// A sample of a stream of `elements`.
fn sample(elements: usize, magnitudes: &[u32]) -> Sample {
    Sample { elements: elements as u64, magnitudes: magnitudes.to_vec(), zeros: 0 }
}

/// Passes until the end is known.
fn search(mut target: Target, targets: u64, magnitudes: &[u32]) -> (Cut, usize) {
    let mut passes = 1;
    while target.cut().is_none() {
        target = target.learn(&pass(&target, targets, magnitudes));
        passes += 1;
    }
    (target.cut().expect("an end"), passes)
}

fn kept(cut: Cut, magnitudes: &[u32]) -> Vec<bool> {
    let keep = |(i, m): (usize, &u32)| *m > cut.bits || *m == cut.bits && (i as u64) < cut.end;
    magnitudes.iter().enumerate().map(keep).collect()
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

fn streams(n: usize) -> [(&'static str, Vec<u32>); 6] {
    [
        ("any bits", (0..n).map(|i| hash(i) >> 1).collect()),
        ("weights", (0..n).map(|i| (hash(i) as f32 / 4e9 * 0.01).to_bits()).collect()),
        ("bf16", (0..n).map(|i| (hash(i) as f32).to_bits() & !0xFFFF).collect()),
        ("three values", (0..n).map(|i| [0, 1, i32::MAX as u32][hash(i) as usize % 3]).collect()),
        ("equal", vec![0x3F80_0001; n]),
        ("rising", (0..n as u32).collect()),
    ]
}

#[test]
fn the_largest_are_those_of_a_sort() {
    let n = 70_003;
    for (name, magnitudes) in streams(n) {
        let part: Vec<_> = magnitudes.iter().copied().step_by(7).collect();
        for rank in [0, 1, 2, 7, 700, 35_001, 60_000, 70_001, 70_002, 70_003] {
            // From a sample; from all of them; with as few bins as there can be.
            for (targets, sampled) in [(1, &part), (1, &magnitudes), (1 << 10, &part)] {
                let target = Target::new(0, rank, &sample(n, sampled));
                let (cut, passes) = search(target, targets, &magnitudes);
                assert!(passes <= PASSES, "{name} {rank}: {passes} passes");
                let got = kept(cut, &magnitudes);
                if cut.bits == 0 {
                    let mut pairs = got.iter().zip(&magnitudes);
                    assert!(pairs.all(|(kept, m)| *kept || *m == 0), "{name} {rank}");
                } else {
                    assert!(got == naive(rank, &magnitudes), "{name} {rank}");
                }
            }
        }
    }
}

#[test]
fn a_good_guess_needs_one_pass_and_one_more_for_equals() {
    let magnitudes = &streams(300_000)[2].1;
    let mut sample = Sample::new(300_000);
    for (i, block) in magnitudes.chunks(BLOCK).enumerate() {
        sample.add((i * BLOCK) as u64, block);
    }
    assert_eq!(sample.magnitudes.len() as u64, SAMPLE);
    let target = Target::new(0, 150_123, &sample);
    let (cut, passes) = search(target.clone(), 1, magnitudes);
    assert_eq!(passes, 3);
    assert!(kept(cut, magnitudes) == naive(150_123, magnitudes));
    // Only one item holds the last of the equals.
    let equals = target.learn(&pass(&target, 1, magnitudes)).span();
    assert_eq!((equals.start % ITEM as u64, equals.end - equals.start), (0, ITEM as u64));
}

#[test]
fn a_guess_that_misses_costs_passes_and_nothing_else() {
    // Every sampled element is small, all others are large; they differ more than there are bins.
    let n = 300_000;
    let magnitudes: Vec<_> =
        (0..n).map(|i| if i % 8 == 0 { i as u32 } else { hash(i) >> 1 }).collect();
    let part: Vec<_> = magnitudes.iter().copied().step_by(8).collect();
    let target = Target::new(0, 150_000, &sample(n, &part));
    let (cut, passes) = search(target.clone(), 1 << 10, &magnitudes);
    assert!((4..=PASSES).contains(&passes), "{passes}");
    assert!(kept(cut, &magnitudes) == naive(150_000, &magnitudes));
    // With room for all of them nothing is counted twice.
    assert_eq!(search(target, 1, &magnitudes), (cut, 3));
}

#[test]
fn a_place_with_more_numbers_than_bins_widens_them() {
    let magnitudes: Vec<_> = (0..200_000).map(|i| hash(i) >> 1).collect();
    let span = Span { low: 0, high: i32::MAX as u64 };
    let stage = Stage::Magnitudes(span);
    let target = Target { stream: 0, rank: 99_999, elements: 200_000, members: true, stage };
    let mut tally = Tally::new(1);
    target.count(Isa::best(), 0, &magnitudes, &mut tally);
    tally.flush();
    let found = tally.find(99_999, true).expect("a bin");
    assert!(found.shift > 0 && found.count > 1);
    let inside = span.inside(found);
    let within = magnitudes.iter().filter(|m| (inside.low..=inside.high).contains(&u64::from(**m)));
    assert_eq!(within.count() as u64, found.count);
    let above = magnitudes.iter().filter(|m| u64::from(**m) > inside.high);
    assert_eq!(above.count() as u64, found.before);
}

#[test]
fn equals_far_apart_are_cut_in_one_pass() {
    // A stream of 2^31 elements; all but these are 0.
    let equals = [5_u64, 6 * BLOCK as u64 + 1, (1 << 30) + 7, (1 << 30) + 8, (1 << 31) - 1];
    let magnitude = |i: u64| 9 * u32::from(equals.contains(&i));
    for left in 1..equals.len() {
        let span = Span { low: 0, high: (1 << 31) - 1 };
        let stage = Stage::Equals { bits: 9, left: left as u64, span };
        let mut target = Target { stream: 0, rank: 0, elements: 1 << 31, members: true, stage };
        let mut passes = 0;
        while target.cut().is_none() {
            let mut tally = Tally::new(1);
            let firsts: std::collections::BTreeSet<_> =
                equals.iter().map(|i| i / BLOCK as u64 * BLOCK as u64).collect();
            for first in firsts {
                let block: Vec<_> = (first..first + BLOCK as u64).map(magnitude).collect();
                target.count(Isa::best(), first, &block, &mut tally);
            }
            tally.flush();
            target = target.learn(&tally);
            passes += 1;
        }
        assert_eq!(passes, 1, "{left}");
        let cut = target.cut().expect("an end");
        assert_eq!((cut.bits, cut.end), (9, equals[left - 1] + 1), "{left}");
    }
}

#[test]
fn a_sample_has_its_size_and_no_element_twice_however_the_stream_is_cut() {
    for elements in [1, SAMPLE, SAMPLE + 1, 300_000, 37_748_736] {
        let whole: Vec<_> = sampled(elements, 0..elements).collect();
        assert!(whole.is_sorted_by(|a, b| a.end <= b.start), "{elements}");
        let count: u64 = whole.iter().map(|run| run.end - run.start).sum();
        assert_eq!(count, elements.min(SAMPLE), "{elements}");
        let cuts = (0..elements).step_by(65_536);
        let parts = cuts.flat_map(|at| sampled(elements, at..elements.min(at + 65_536)));
        assert_eq!(parts.map(|run| run.end - run.start).sum::<u64>(), count, "{elements}");
    }
}

#[test]
fn a_value_alone_needs_no_place() {
    for (name, magnitudes) in streams(70_003) {
        let part: Vec<_> = magnitudes.iter().copied().step_by(7).collect();
        let mut sorted = magnitudes.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        for rank in [1, 2, 700, 35_001, 70_002, 70_003] {
            let target = Target::value(rank, &sample(magnitudes.len(), &part));
            let (cut, passes) = search(target, 3, &magnitudes);
            assert!(passes <= PASSES_FOR_VALUE, "{name} {rank}: {passes} passes");
            assert_eq!(cut.bits, sorted[rank as usize - 1], "{name} {rank}");
        }
    }
}
