//! The delta family through whole jobs, against formulas on whole vectors: sorting instead of
//! counting, one generator call per element, no blocks.
#![allow(clippy::float_cmp, clippy::cast_sign_loss)] // equality is meant, and shares are not negative

mod formula;
mod job;
mod pointwise;

use serde_json::{Value, json};

use formula::{Formula, Thinning};
use job::{Inputs, same};

const KEYS: [u64; 3] = [0x0123_4567_89AB_CDEF, 42, u64::MAX];

fn op(sparsify: &Value, consensus: &str, normalize: bool) -> Value {
    let weights = [0.7, -0.4, 1.3];
    json!({"delta": {"weights": weights, "lambda": 0.9, "normalize": if normalize { "weights" } else { "none" },
        "consensus": consensus, "even": "majority", "sparsify": sparsify}})
}

/// Every sparsifier, as the plan spells it and as the oracle does.
fn sparsifiers() -> Vec<(Value, Thinning)> {
    let (density, epsilon) = ([0.5, 0.2, 1.0], [0.1, 0.15, 0.0]);
    let gamma = [0.01, 0.3, 0.5];
    let mut all = vec![
        (json!({"none": {}}), Thinning::None),
        (json!({"magnitude": {"density": density}}), Thinning::Magnitude(density)),
        (
            json!({"outliers": {"density": density, "gamma": gamma}}),
            Thinning::Outliers(density, gamma),
        ),
    ];
    for rescale in ["none", "inverse", "l1"] {
        all.push((
            json!({"random": {"density": density, "keys": KEYS, "rescale": rescale}}),
            Thinning::Random(density, rescale),
        ));
        all.push((
            json!({"rank": {"density": density, "epsilon": epsilon, "keys": KEYS, "rescale": rescale}}),
            Thinning::Rank(density, epsilon, rescale),
        ));
    }
    all
}

#[test]
fn every_method_is_the_formula_of_whole_vectors() {
    // Several cells, the last one cut short; rows that no block ends with.
    for (inputs, kind) in [(Inputs::smooth(133, 1003), "f32"), (Inputs::coarse(133, 1003), "bf16")]
    {
        for (sparsify, thinning) in sparsifiers() {
            for (consensus, normalize) in [("none", false), ("sum", true), ("count", true)] {
                let op = op(&sparsify, consensus, normalize);
                let formula = Formula {
                    weights: [0.7, -0.4, 1.3],
                    lambda: 0.9,
                    normalize,
                    consensus,
                    thinning,
                    keys: KEYS,
                };
                let (got, want) = (inputs.run(&op), formula.of(&inputs));
                // The oracle adds up its magnitudes in another order, so the factor may differ.
                let ulps = if sparsify.to_string().contains("l1") { 4 } else { 0 };
                assert!(same(&got, &want, ulps), "{kind} {op}");
            }
        }
    }
}

#[test]
fn neither_threads_nor_chunks_nor_instructions_change_a_bit() {
    let inputs = Inputs::coarse(300, 512);
    for (sparsify, _) in sparsifiers() {
        let op = op(&sparsify, "sum", true);
        let want = inputs.run(&op);
        for isa in submerge_core::simd::Isa::available() {
            for (threads, chunk) in [(1, 1), (2, 1), (3, 400_000), (1, 1 << 30)] {
                let options = json!({"isa": isa.name(), "threads": threads, "chunk": chunk,
                    "memory_budget": 1 << 30});
                let got = inputs.run_with(&op, &options);
                assert!(same(&got, &want, 0), "{op} {options}");
            }
        }
    }
}

#[test]
fn rows_of_every_length_have_ranks() {
    let all = sparsifiers();
    let ranks = all.iter().filter(|(sparsify, _)| sparsify.get("rank").is_some());
    for (sparsify, thinning) in ranks {
        for (rows, columns) in [(70_000, 1), (40_000, 2), (3, 70_001), (1, 1)] {
            let inputs = Inputs::coarse(rows, columns);
            let formula = Formula {
                weights: [0.7, -0.4, 1.3],
                lambda: 0.9,
                normalize: false,
                consensus: "none",
                thinning: *thinning,
                keys: KEYS,
            };
            let got = inputs.run(&op(sparsify, "none", false));
            let ulps = if sparsify.to_string().contains("l1") { 4 } else { 0 };
            assert!(same(&got, &formula.of(&inputs), ulps), "{rows} {columns} {sparsify}");
        }
    }
}

#[test]
fn density_one_is_task_arithmetic_and_lambda_zero_is_the_base() {
    let inputs = Inputs::smooth(100, 700);
    let ones = [1.0; 3];
    let whole = inputs.run(&op(&json!({"none": {}}), "none", false));
    let random = json!({"density": ones, "keys": KEYS, "rescale": "l1"});
    let rank = json!({"density": ones, "epsilon": ones, "keys": KEYS, "rescale": "inverse"});
    for sparsify in [
        json!({"magnitude": {"density": ones}}),
        json!({"outliers": {"density": ones, "gamma": ones}}),
        json!({"random": random}),
        json!({"rank": rank}),
    ] {
        assert!(same(&inputs.run(&op(&sparsify, "none", false)), &whole, 0), "{sparsify}");
    }
    for (sparsify, _) in sparsifiers() {
        let mut op = op(&sparsify, "sum", true);
        op["delta"]["lambda"] = json!(0.0);
        assert!(same(&inputs.run(&op), &inputs.values[0], 0), "{sparsify}");
    }
}

#[test]
fn zero_differences_equal_ones_and_opposite_weights() {
    let n = 70_000;
    let base: Vec<f32> = (0..n).map(|i| i as f32 * 0.25).collect();
    let same_base = Inputs::of(n, 1, [&base, &base, &base, &base]);
    let shifted: Vec<f32> = base.iter().map(|x| x + 0.5).collect();
    let equal = Inputs::of(n, 1, [&base, &shifted, &shifted, &shifted]);
    for (sparsify, thinning) in sparsifiers() {
        assert!(same(&same_base.run(&op(&sparsify, "sum", true)), &base, 0), "{sparsify}");
        // Every magnitude is at the threshold: the lowest indices stay.
        let formula = Formula {
            weights: [0.7, -0.4, -0.3],
            lambda: 1.0,
            normalize: true,
            consensus: "none",
            thinning,
            keys: KEYS,
        };
        // These weights sum to as good as 0, so nothing is divided.
        let op = json!({"delta": {"weights": [0.7, -0.4, -0.3], "lambda": 1.0,
            "normalize": "weights", "consensus": "none", "even": "majority", "sparsify": sparsify}});
        let ulps = if sparsify.to_string().contains("l1") { 4 } else { 0 };
        assert!(same(&equal.run(&op), &formula.of(&equal), ulps), "{op}");
    }
}

/// A base of zeros, two models that add `pairs` again and again, and one that adds nothing.
fn cancelling(pairs: &[[f32; 2]], n: usize) -> Inputs {
    let of = |model: usize| -> Vec<f32> { (0..n).map(|i| pairs[i % pairs.len()][model]).collect() };
    Inputs::of(n, 1, [&vec![0.0; n], &of(0), &of(1), &vec![0.0; n]])
}

#[test]
fn where_differences_cancel_the_sign_of_more_elements_of_the_unit_wins() {
    // 1 - 1 is elected by what the other elements of the unit have, as in the code of the authors:
    // several cells, the last one cut short.
    let n = 3 * 65_536 + 77;
    let up = cancelling(&[[1.0, -1.0], [2.0, 3.0], [2.0, 3.0], [-4.0, -1.0]], n);
    let down = cancelling(&[[1.0, -1.0], [-2.0, -3.0], [-2.0, -3.0], [4.0, 1.0]], n);
    // As many of either: the negative one, as `torch.where(0 > 0, x > 0, x < 0)` has it.
    let even = cancelling(&[[1.0, -1.0], [2.0, 3.0], [-2.0, -3.0]], n / 3 * 3);
    let op = |consensus: &str, even: &str, sparsify: &Value| {
        json!({"delta": {"weights": [1.0, 1.0, 1.0], "lambda": 1.0, "normalize": "weights",
            "consensus": consensus, "even": even, "sparsify": sparsify}})
    };
    let thinned = json!({"magnitude": {"density": [0.9, 0.9, 1.0]}});
    for sparsify in [json!({"none": {}}), thinned] {
        for consensus in ["plain", "sum", "count"] {
            for (inputs, wins) in [(&up, 1.0), (&down, -1.0), (&even, -1.0)] {
                let got = inputs.run(&op(consensus, "majority", &sparsify));
                // Of equal magnitudes the first stay: the first element is whole.
                assert_eq!(got[0], wins, "{consensus} {sparsify}");
                let got = inputs.run(&op(consensus, "positive", &sparsify));
                assert_eq!(got[0], 1.0, "{consensus} {sparsify}");
            }
        }
    }
}

#[test]
fn a_vote_without_winners_keeps_the_base_and_nan_stays() {
    let base = vec![1.0_f32; 3000];
    let (up, down) = (vec![1.5_f32; 3000], vec![0.5_f32; 3000]);
    let mut odd = up.clone();
    (odd[5], odd[2999]) = (f32::NAN, f32::INFINITY);
    // 1 - 1 + 0 = 0: the majority is positive.
    let inputs = Inputs::of(3000, 1, [&base, &up, &down, &base]);
    let ties = |weights: [f64; 3], sparsify: Value| {
        json!({"delta": {"weights": weights, "lambda": 1.0, "normalize": "weights", "consensus": "sum",
            "even": "positive", "sparsify": sparsify}})
    };
    let none = json!({"none": {}});
    assert!(same(&inputs.run(&ties([1.0; 3], none.clone())), &up, 0));
    assert!(same(&inputs.run(&ties([0.0; 3], none)), &base, 0));
    let inputs = Inputs::of(3000, 1, [&base, &odd, &down, &base]);
    for (sparsify, _) in sparsifiers() {
        let got = inputs.run(&ties([1.0; 3], sparsify.clone()));
        let bad: Vec<_> = (0..3000).filter(|i| !got[*i].is_finite()).collect();
        assert_eq!(bad, [5, 2999], "{sparsify}");
    }
}

#[test]
fn masks_keep_the_share_they_were_told() {
    // Differences that no rounding hides.
    let (base, n) = (vec![0.0; 400 * 1024], 400.0_f64 * 1024.0);
    let model: Vec<_> = (0..400 * 1024).map(|i| job::noise(1, i) + 2.0).collect();
    let inputs = Inputs::of(400, 1024, [&base, &model, &base, &base]);
    for (density, epsilon) in [(0.5, 0.2), (0.1, 0.05), (0.93, 0.06)] {
        for (name, extra) in [("random", json!({})), ("rank", json!({"epsilon": ([epsilon; 3])}))] {
            let mut args = extra;
            args["density"] = json!([density, 0.0, 0.0]);
            args["keys"] = json!(KEYS);
            args["rescale"] = json!("none");
            let got = inputs.run(&op(&json!({name: args}), "none", false));
            let kept = got.iter().zip(&inputs.values[0]).filter(|(x, b)| x != b).count() as f64;
            // Five standard deviations; chances that differ within a row only narrow it.
            let bound = 5.0 * (n * density * (1.0 - density)).sqrt();
            assert!((kept - density * n).abs() < bound, "{name} {density}: {kept} of {n}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let inputs = Inputs::smooth(4, 4);
    let whole = json!({"none": {}});
    let mut few = op(&whole, "none", false);
    few["delta"]["weights"] = json!([1.0]);
    let rank = |density: f64, epsilon: f64| {
        let args = json!({"density": ([density; 3]), "epsilon": ([epsilon; 3]), "keys": KEYS,
            "rescale": "none"});
        op(&json!({"rank": args}), "none", false)
    };
    for (op, want) in [
        (few, "1 weights for 4 operands, expected one for each but the base"),
        (op(&json!({"magnitude": {"density": [0.5]}}), "none", false), "1 of density, expected 3"),
        (
            op(&json!({"magnitude": {"density": [0.5, 2, 0]}}), "none", false),
            "density 2, expected 0 to 1",
        ),
        (rank(0.5, 0.5), "density 0.5 and epsilon 0.5, expected their sum"),
        (op(&json!({"none": {"density": 1}}), "none", false), "not in the expected form"),
    ] {
        let error = inputs.refused(&op);
        assert!(error.contains(want), "{error}");
    }
}
