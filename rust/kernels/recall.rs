//! What is recalled is what passes found, and nothing that cannot be true is believed.

use serde_json::{Value, json};

use super::adaptive::Adaptive;
use super::combine::{Combine, Weighted};
use super::delta::{Delta, Sparsifier};
use super::driven;
use super::linear::Linear;
use super::runner::{Run, runner};
use super::tile::Whole;
use crate::simd::BLOCK;

/// A unit of three operands with few magnitudes, so that many are equal.
fn operands(elements: usize) -> Vec<Vec<f32>> {
    let of =
        |k: u32, i: u32| ((i * 7 + k * 13).wrapping_mul(0x9E37_79B9) >> 22) as f32 / 512.0 - 1.0;
    (0..3).map(|k| (0..elements as u32).map(|i| of(k, i)).collect()).collect()
}

fn whole(x: &[Vec<f32>]) -> Whole {
    Whole { operands: x.len(), elements: x[0].len() as u64 }
}

/// A kernel's arguments, as the plan spells them.
#[derive(Clone, Debug)]
enum Spec {
    Combine(Value),
    Delta(Value),
    Adaptive(Value),
}

impl Spec {
    fn run(&self, whole: Whole) -> Box<dyn Run> {
        fn of<T: serde::de::DeserializeOwned>(raw: &Value) -> T {
            serde_json::from_value(raw.clone()).expect("arguments")
        }
        let run = match self {
            Self::Combine(raw) => runner(Weighted(of::<Combine>(raw).rule()), whole),
            Self::Delta(raw) => of::<Delta<Sparsifier>>(raw).runner(whole),
            Self::Adaptive(raw) => of::<Adaptive>(raw).runner(whole),
        };
        run.expect("usable arguments")
    }

    /// With what passes found, and that.
    fn passed(&self, x: &[Vec<f32>]) -> (Box<dyn Run>, Option<Vec<u64>>) {
        let run = self.run(whole(x));
        let found = driven::pass(&*run, 64, x);
        (run, found)
    }

    /// With what an earlier job found.
    fn recalled(&self, whole: Whole, statistics: &[u64]) -> Option<Box<dyn Run>> {
        let mut run = self.run(whole);
        run.recall(statistics).then_some(run)
    }
}

fn mapped(run: &dyn Run, x: &[Vec<f32>]) -> (Vec<u32>, Option<String>) {
    let (out, note) = driven::map(run, 64, x, BLOCK);
    (out.iter().map(|x| x.to_bits()).collect(), note)
}

/// The vote counts the signs of the whole unit, without weights.
fn plain(sparsify: &Value, lambda: f64) -> Spec {
    Spec::Delta(json!({
        "weights": [0.5, 0.25], "lambda": lambda, "normalize": "none", "consensus": "plain",
        "even": "majority", "sparsify": sparsify,
    }))
}

fn delta(sparsify: &Value, lambda: f64) -> Spec {
    Spec::Delta(json!({
        "weights": [0.5, 0.25], "lambda": lambda, "normalize": "none", "consensus": "sum", "even": "positive",
        "sparsify": sparsify,
    }))
}

/// Kernels that keep statistics, each beside one that may use them: what enters after the
/// passes is another.
fn pairs() -> Vec<[Spec; 2]> {
    let stock = |floor: f64| Spec::Combine(json!({"model_stock": {"floor": floor}}));
    let stays = json!({"magnitude": {"density": [0.3, 1.0]}});
    let without = json!({"outliers": {"density": [0.5, 0.2], "gamma": [0.1, 0.9]}});
    let random = json!({"random": {"density": [0.5, 0.2], "keys": [7, 8], "rescale": "l1"}});
    let rank = json!({"rank": {
        "density": [0.5, 0.2], "epsilon": [0.1, 0.1], "keys": [7, 8], "rescale": "l1",
    }});
    let sce = |topk: f64, floor: f64| {
        Spec::Adaptive(json!({"sce": {"select_topk": topk, "floor": floor}}))
    };
    let ram =
        |r: f64| Spec::Adaptive(json!({"ramplus_tl": {"r": r, "alpha": 2.0, "epsilon": 0.1}}));
    vec![
        [stock(0.0), Spec::Combine(json!({"karcher": {"max_iter": 9, "tol": 1e-9}}))],
        [delta(&stays, 1.5), delta(&stays, 0.5)],
        [delta(&without, 1.5), delta(&without, 0.5)],
        [plain(&stays, 1.5), plain(&stays, 0.5)],
        [plain(&json!({"none": {}}), 1.5), plain(&json!({"none": {}}), 0.5)],
        [delta(&random, 1.5), delta(&random, 0.5)],
        [delta(&rank, 1.5), delta(&rank, 0.5)],
        [sce(0.4, 0.0), sce(0.4, 0.5)],
        [sce(1.0, 0.0), sce(1.0, 0.5)],
        [ram(0.1), ram(0.7)],
    ]
}

#[test]
fn what_is_recalled_makes_the_same_bits_as_a_pass() {
    // One block is its own sample; the other is cut by counts, at one of many equal magnitudes.
    for elements in [BLOCK, 1 << 18] {
        let x = operands(elements);
        for [first, other] in pairs() {
            let kept = first.passed(&x).1.unwrap_or_else(|| panic!("nothing kept: {first:?}"));
            assert!(kept.len() <= 8, "{first:?}: {}", kept.len());
            for kernel in [first, other] {
                let (passed, again) = kernel.passed(&x);
                assert_eq!(again.as_ref(), Some(&kept), "{kernel:?}");
                let recalled = kernel.recalled(whole(&x), &kept).expect("true statistics");
                assert_eq!(recalled.passes(), 0);
                assert_eq!(mapped(&*recalled, &x), mapped(&*passed, &x), "{kernel:?}");
            }
        }
    }
}

#[test]
fn kernels_that_may_share_statistics_ask_for_the_same() {
    let whole = Whole { operands: 3, elements: 9 };
    let key = |spec: &Spec| spec.run(whole).key();
    for [first, other] in pairs() {
        assert_eq!(key(&first), key(&other));
        assert!(key(&first).is_some());
    }
    let keys: std::collections::BTreeSet<_> = pairs().iter().map(|pair| key(&pair[0])).collect();
    assert_eq!(keys.len(), pairs().len());
    let density = |d: f64| key(&delta(&json!({"magnitude": {"density": [d, 1.0]}}), 1.0));
    assert_ne!(density(0.3), density(0.3_f64.next_up()));
}

#[test]
fn quartiles_are_recalled_beside_rows_that_are_passed() {
    let x = operands(1 << 18)[..2].to_vec();
    let kernel = Spec::Adaptive(json!({"arcee_fusion": {}}));
    let (passed, kept) = kernel.passed(&x);
    let kept = kept.expect("three ends");
    let recalled = kernel.recalled(whole(&x), &kept).expect("true statistics");
    assert_eq!(recalled.passes(), 1);
    assert!(recalled.map().is_none(), "the rows are not known yet");
    assert_eq!(driven::pass(&*recalled, 64, &x), None);
    assert_eq!(mapped(&*recalled, &x), mapped(&*passed, &x));
    assert!(kernel.recalled(whole(&x), &kept[2..]).is_none());
    let beyond = [&kept[..4], &[u64::MAX, 0]].concat();
    assert!(kernel.recalled(whole(&x), &beyond).is_none());
}

#[test]
fn signs_that_depend_on_weights_are_counted_again() {
    let x = operands(1 << 18);
    let raw = json!({
        "weights": [0.5, 0.25], "lambda": 1.0, "normalize": "none", "consensus": "sum",
        "even": "majority", "sparsify": {"magnitude": {"density": [0.3, 1.0]}},
    });
    let kernel = Spec::Delta(raw);
    let (passed, kept) = kernel.passed(&x);
    let recalled = kernel.recalled(whole(&x), &kept.expect("an end")).expect("true statistics");
    assert_eq!(recalled.passes(), 1);
    assert!(recalled.map().is_none(), "the signs are not known yet");
    assert_eq!(driven::pass(&*recalled, 64, &x), None);
    assert_eq!(mapped(&*recalled, &x), mapped(&*passed, &x));
}

#[test]
fn numbers_that_no_pass_can_find_are_not_believed() {
    let x = operands(BLOCK);
    let whole = whole(&x);
    for [kernel, _] in pairs() {
        let kept = kernel.passed(&x).1.expect("statistics");
        assert!(kernel.recalled(whole, &kept[1..]).is_none(), "{kernel:?}: one is missing");
        let more: Vec<_> = kept.iter().copied().chain([0]).collect();
        assert!(kernel.recalled(whole, &more).is_none(), "{kernel:?}: one too many");
        for bad in [f64::NAN.to_bits(), f64::NEG_INFINITY.to_bits(), (-1.0_f64).to_bits()] {
            let changed: Vec<_> = [bad].into_iter().chain(kept[1..].iter().copied()).collect();
            assert!(kernel.recalled(whole, &changed).is_none(), "{kernel:?}: {bad:#x}");
        }
        assert!(kernel.recalled(whole, &[]).is_none(), "{kernel:?}: nothing");
    }
    // A place beyond the end of the unit.
    let ends = delta(&json!({"magnitude": {"density": [0.3, 1.0]}}), 1.0);
    assert!(ends.recalled(whole, &[1, BLOCK as u64]).is_some());
    assert!(ends.recalled(whole, &[1, BLOCK as u64 + 1]).is_none());
}

#[test]
fn kernels_without_statistics_ask_for_none() {
    let whole = Whole { operands: 3, elements: 9 };
    let random = json!({"density": [0.5, 0.5], "keys": [1, 2], "rescale": "inverse"});
    let kernels = [
        runner(Linear::sum(vec![1.0; 3]), whole).expect("weights"),
        delta(&json!({"none": {}}), 1.0).run(whole),
        delta(&json!({"random": random}), 1.0).run(whole),
        // A number for each column.
        Spec::Adaptive(json!({"cosine": {"alpha": 0.5, "whole": false}}))
            .run(Whole { operands: 2, elements: 9 }),
    ];
    for mut kernel in kernels {
        assert_eq!(kernel.key(), None, "{kernel:?}");
        assert!(!kernel.recall(&[0; 6]), "{kernel:?}");
    }
}

#[test]
fn whatever_numbers_are_recalled_nothing_breaks() {
    let x = operands(BLOCK);
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
            if let Some(run) = kernel.recalled(whole(&x), &numbers) {
                believed += 1;
                assert_eq!(mapped(&*run, &x).0.len(), BLOCK);
            }
        }
    }
    assert!(believed > 100, "{believed}"); // there is something to break
}
