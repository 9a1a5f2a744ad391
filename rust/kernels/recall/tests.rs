//! What is told teaches what the looks taught, and nothing that cannot be true is believed.

use serde_json::{Value, json};

use crate::kernels::{Adaptive, Combine, Delta, Kernel, Learned, Stretch, Sums, Whole};
use crate::simd::{BLOCK, Isa};

/// A unit of three operands with few magnitudes, so that many are equal.
fn operands(elements: usize) -> Vec<Vec<f32>> {
    let of =
        |k: u32, i: u32| ((i * 7 + k * 13).wrapping_mul(0x9E37_79B9) >> 22) as f32 / 512.0 - 1.0;
    (0..3).map(|k| (0..elements as u32).map(|i| of(k, i)).collect()).collect()
}

/// What so many looks teach beside what is known, and the statistics kept on the way.
fn looked(
    kernel: &Kernel,
    x: &[Vec<f32>],
    mut learned: Learned,
    passes: usize,
) -> (Learned, Option<Vec<u64>>) {
    let (elements, mut kept) = (x[0].len(), None);
    let whole = Whole { operands: x.len(), elements: elements as u64 };
    for pass in 0..passes {
        let mut total: Option<Sums> = None;
        for first in (0..elements).step_by(BLOCK) {
            let Some(mut sums) = kernel.start(pass, whole, &learned) else { continue };
            let operands: Vec<_> =
                x.iter().map(|x| &x[first..elements.min(first + BLOCK)]).collect();
            let (isa, row, around) = (Isa::best(), 64, [0, 0]);
            let stretch = Stretch { isa, first: first as u64, row, around, operands: &operands };
            kernel.reduce(pass, stretch, &learned, &mut sums);
            sums.settle();
            match &mut total {
                Some(total) => total.merge_next(&sums),
                None => total = Some(sums),
            }
        }
        if let Some(sums) = total {
            let taught = kernel.learn(pass, &sums, &learned);
            kept = kernel.statistics(&sums, &taught).or(kept);
            learned = taught;
        }
    }
    (learned, kept)
}

fn mapped(kernel: &Kernel, x: &[Vec<f32>], learned: &Learned) -> Vec<u32> {
    let operands: Vec<_> = x.iter().map(|x| &x[..BLOCK]).collect();
    let stretch =
        Stretch { isa: Isa::best(), first: 0, row: 64, around: [0, 0], operands: &operands };
    let mut out = vec![0.0; BLOCK];
    kernel.map(stretch, learned, &mut out);
    out.iter().map(|x| x.to_bits()).collect()
}

fn delta(sparsify: &Value, lambda: f64) -> Kernel {
    let raw = json!({
        "weights": [0.5, 0.25], "lambda": lambda, "normalize": false, "consensus": "sum",
        "sparsify": sparsify,
    });
    Kernel::Delta(serde_json::from_value::<Delta>(raw).expect("a delta"))
}

fn adaptive(raw: Value) -> Kernel {
    Kernel::Adaptive(serde_json::from_value::<Adaptive>(raw).expect("a formula"))
}

fn combine(raw: Value) -> Kernel {
    Kernel::Combine(serde_json::from_value::<Combine>(raw).expect("a rule"))
}

/// Kernels that keep statistics, each beside one that may use them: what enters after the looks
/// is another.
fn pairs() -> Vec<[Kernel; 2]> {
    let stock = |floor: f64| combine(json!({"model_stock": {"floor": floor}}));
    let stays = json!({"magnitude": {"density": [0.3, 1.0]}});
    let without = json!({"outliers": {"density": [0.5, 0.2], "gamma": [0.1, 0.9]}});
    let random = json!({"random": {"density": [0.5, 0.2], "keys": [7, 8], "rescale": "l1"}});
    let rank = json!({"rank": {
        "density": [0.5, 0.2], "epsilon": [0.1, 0.1], "keys": [7, 8], "rescale": "l1",
    }});
    let sce =
        |topk: f64, floor: f64| adaptive(json!({"sce": {"select_topk": topk, "floor": floor}}));
    let ram = |r: f64| adaptive(json!({"ramplus_tl": {"r": r, "alpha": 2.0, "epsilon": 0.1}}));
    vec![
        [stock(0.0), combine(json!({"karcher": {"max_iter": 9, "tol": 1e-9}}))],
        [delta(&stays, 1.5), delta(&stays, 0.5)],
        [delta(&without, 1.5), delta(&without, 0.5)],
        [delta(&random, 1.5), delta(&random, 0.5)],
        [delta(&rank, 1.5), delta(&rank, 0.5)],
        [sce(0.4, 0.0), sce(0.4, 0.5)],
        [sce(1.0, 0.0), sce(1.0, 0.5)],
        [ram(0.1), ram(0.7)],
    ]
}

#[test]
fn what_is_told_makes_the_same_bits_as_a_look() {
    // One block is its own sample; the other is cut by counts, at one of many equal magnitudes.
    for elements in [BLOCK, 1 << 18] {
        let x = operands(elements);
        let whole = Whole { operands: 3, elements: elements as u64 };
        for [first, other] in pairs() {
            let (_, kept) = looked(&first, &x, Learned::Nothing, first.passes());
            let kept = kept.unwrap_or_else(|| panic!("nothing kept: {first:?}"));
            assert!(kept.len() <= 8, "{first:?}: {}", kept.len());
            for kernel in [first, other] {
                let (taught, again) = looked(&kernel, &x, Learned::Nothing, kernel.passes());
                assert_eq!(again.as_ref(), Some(&kept), "{kernel:?}");
                let told = kernel.recall(whole, &kept).expect("statistics that are true");
                assert_eq!(told.note(), taught.note());
                let (told, taught) = (mapped(&kernel, &x, &told), mapped(&kernel, &x, &taught));
                assert_eq!(told, taught, "{kernel:?}");
            }
        }
    }
}

#[test]
fn kernels_that_may_share_statistics_ask_for_the_same() {
    for [first, other] in pairs() {
        assert_eq!(first.look(), other.look());
        assert!(first.look().is_some());
    }
    let looks: std::collections::BTreeSet<_> = pairs().iter().map(|pair| pair[0].look()).collect();
    assert_eq!(looks.len(), pairs().len());
    let density = |d: f64| delta(&json!({"magnitude": {"density": [d, 1.0]}}), 1.0).look();
    assert_ne!(density(0.3), density(0.3_f64.next_up()));
}

#[test]
fn quartiles_are_told_beside_rows_that_are_looked_at() {
    let x = operands(1 << 18)[..2].to_vec();
    let whole = Whole { operands: 2, elements: 1 << 18 };
    let kernel = adaptive(json!({"arcee_fusion": {}}));
    let (taught, kept) = looked(&kernel, &x, Learned::Nothing, kernel.passes());
    let kept = kept.expect("three ends");
    let told = kernel.recall(whole, &kept).expect("statistics that are true");
    let (told, again) = looked(&kernel, &x, told, kernel.never_recalled());
    assert_eq!(again, None);
    assert_eq!(mapped(&kernel, &x, &told), mapped(&kernel, &x, &taught));
    assert!(kernel.recall(whole, &kept[2..]).is_none());
    assert!(kernel.recall(whole, &[&kept[..4], &[u64::MAX, 0]].concat()).is_none());
}

#[test]
fn numbers_that_no_look_can_find_are_not_believed() {
    let x = operands(BLOCK);
    let whole = Whole { operands: 3, elements: BLOCK as u64 };
    for [kernel, _] in pairs() {
        let kept = looked(&kernel, &x, Learned::Nothing, kernel.passes()).1.expect("statistics");
        assert!(kernel.recall(whole, &kept[1..]).is_none(), "{kernel:?}: one is missing");
        let more: Vec<_> = kept.iter().copied().chain([0]).collect();
        assert!(kernel.recall(whole, &more).is_none(), "{kernel:?}: one too many");
        for bad in [f64::NAN.to_bits(), f64::NEG_INFINITY.to_bits(), (-1.0_f64).to_bits()] {
            let changed: Vec<_> = [bad].into_iter().chain(kept[1..].iter().copied()).collect();
            assert!(kernel.recall(whole, &changed).is_none(), "{kernel:?}: {bad:#x}");
        }
        assert!(kernel.recall(whole, &[]).is_none(), "{kernel:?}: nothing");
    }
    // A place beyond the end of the unit.
    let ends = delta(&json!({"magnitude": {"density": [0.3, 1.0]}}), 1.0);
    assert!(ends.recall(whole, &[1, BLOCK as u64]).is_some());
    assert!(ends.recall(whole, &[1, BLOCK as u64 + 1]).is_none());
}

#[test]
fn kernels_without_statistics_ask_for_none() {
    let kernels = [
        Kernel::Linear(serde_json::from_value(json!({"weights": [1.0]})).expect("weights")),
        delta(&json!({"none": {}}), 1.0),
        delta(
            &json!({"random": {"density": [0.5, 0.5], "keys": [1, 2], "rescale": "inverse"}}),
            1.0,
        ),
        // A number for each column.
        adaptive(json!({"cosine": {"alpha": 0.5, "whole": false}})),
    ];
    let whole = Whole { operands: 3, elements: 9 };
    for kernel in kernels {
        assert_eq!(kernel.look(), None, "{kernel:?}");
        assert!(kernel.recall(whole, &[0; 6]).is_none(), "{kernel:?}");
    }
}

#[test]
fn whatever_numbers_are_told_nothing_breaks() {
    let x = operands(BLOCK);
    let whole = Whole { operands: 3, elements: BLOCK as u64 };
    let special = [
        0,
        1,
        BLOCK as u64,
        u64::MAX,
        i32::MAX as u64,
        f64::MAX.to_bits(),
        f64::MIN_POSITIVE.to_bits(),
        f64::NAN.to_bits(),
        1.0_f64.to_bits(),
        (BLOCK as f64).to_bits(),
    ];
    let (mut state, mut believed) = (7_u64, 0);
    let mut next = |n: usize| {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        (state >> 33) as usize % n
    };
    for [kernel, _] in pairs() {
        for _ in 0..3000 {
            let numbers: Vec<_> = (0..next(8)).map(|_| special[next(special.len())]).collect();
            if let Some(learned) = kernel.recall(whole, &numbers) {
                believed += 1;
                assert_eq!(mapped(&kernel, &x, &learned).len(), BLOCK);
            }
        }
    }
    assert!(believed > 100, "{believed}"); // there is something to break
}
