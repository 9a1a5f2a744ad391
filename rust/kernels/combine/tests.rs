use serde_json::{Value, json};

use super::naive::{self, Vector};
use super::rows::EachRow;
use super::{Combine, Weighted};
use crate::kernels::driven;
use crate::kernels::runner::{Run, runner};
use crate::kernels::tile::Whole;
use crate::simd::BLOCK;

const LEN: usize = 3 * BLOCK + 77;

/// Values of about the size of weights, different per operand.
fn noise(seed: u64, spread: f64) -> Vec<f32> {
    let value = |i: u64| {
        let hash = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        ((hash as f64 / 8_388_608.0 - 1.0) * spread) as f32
    };
    (0..LEN as u64).map(value).collect()
}

/// `count` operands that have next to nothing in common, or that are `spread` away from the first.
fn operands(count: u64, spread: Option<f64>) -> Vec<Vec<f32>> {
    let first = noise(0, 0.05);
    let other = |seed: u64| match spread {
        None => noise(seed, 0.02 + 0.03 * seed as f64),
        Some(spread) => {
            let mut other = noise(seed, spread * (1.0 + seed as f64));
            // Half of what is added is common to all.
            let common = noise(99, spread);
            other.iter_mut().zip(&common).zip(&first).for_each(|((x, c), r)| *x += c + r);
            other
        }
    };
    (0..count).map(|seed| if seed == 0 { first.clone() } else { other(seed) }).collect()
}

fn combine(op: &Value) -> Combine {
    serde_json::from_value(op.clone()).expect("a rule of the plan")
}

/// What a job does with a unit of one cell.
fn run(run: &dyn Run, row: usize, x: &[Vec<f32>]) -> (Vec<f32>, Option<String>) {
    driven::pass(run, row, x);
    driven::map(run, row, x, x[0].len())
}

fn size(x: &[Vec<f32>]) -> Whole {
    Whole { operands: x.len(), elements: x[0].len() as u64 }
}

fn whole(op: &Value, x: &[Vec<f32>]) -> (Vec<f32>, Option<String>) {
    let weighted = runner(Weighted(combine(op).rule()), size(x)).expect("usable arguments");
    run(&*weighted, x[0].len(), x)
}

fn exact(x: &[Vec<f32>]) -> Vec<Vector> {
    x.iter().map(|x| x.iter().map(|x| f64::from(*x)).collect()).collect()
}

/// Within `tolerance` of the size of the whole vector's elements.
fn near(got: &[f32], want: &[f64], tolerance: f64, what: &dyn std::fmt::Debug) {
    let size = want.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        assert!(off <= tolerance * size, "{what:?} {i}: {got} {want}");
    }
}

/// Far apart, as far as fine-tuned models are, and closer than f32 tells norms apart.
const SPREADS: [Option<f64>; 4] = [None, Some(0.01), Some(1e-4), Some(1e-6)];

#[test]
fn slerp_from_inner_products_is_slerp() {
    for spread in SPREADS {
        let x = operands(2, spread);
        let v = exact(&x);
        for t in [0.0, 0.3, 1.0, 1.7] {
            let (out, note) = whole(&json!({"slerp": {"alpha": t}}), &x);
            near(&out, &naive::slerp(&v[0], &v[1], t, 0.9995), 4e-7, &(spread, t));
            let close = naive::dot(&v[0], &v[1]) > 0.9995 * naive::norm(&v[0]) * naive::norm(&v[1]);
            assert_eq!(note.is_some(), close, "{spread:?}");
        }
    }
    let x = operands(2, None);
    assert_eq!(whole(&json!({"slerp": {"alpha": 0.0}}), &x).0, x[0]);
    assert_eq!(whole(&json!({"slerp": {"alpha": 1.0}}), &x).0, x[1]);
}

#[test]
fn slerp_between_parallel_opposite_and_absent_vectors() {
    let x = [1.0_f32, -2.0, 2.0];
    let of = |factor: f32| x.iter().map(|x| x * factor).collect::<Vec<_>>();
    let slerp = |a: f32, b: f32, t: f64| whole(&json!({"slerp": {"alpha": t}}), &[of(a), of(b)]);
    assert_eq!(
        slerp(1.0, 3.0, 0.5),
        (of(2.0), Some("nearly parallel (cosine above 0.9995): linear".to_owned()))
    );
    assert_eq!(
        slerp(1.0, -1.0, 0.25),
        (of(0.5), Some("nearly parallel (cosine above 0.9995): linear".to_owned()))
    );
    assert_eq!(slerp(0.0, 0.0, 0.25), (of(0.0), None));
    // Without a direction the angle is a right one.
    near(&slerp(0.0, 1.0, 0.5).0, &exact(&[of(0.5_f32.sqrt())])[0], 1e-7, &"half a right angle");
}

#[test]
fn nuslerp_is_slerp_of_deltas_by_weights() {
    for spread in SPREADS {
        let x = operands(3, spread);
        let v = exact(&x);
        let op = json!({"nuslerp": {"weights": [3.0, 1.0], "base": true}});
        let d = naive::deltas(&v);
        let want = naive::plus(&v[0], 1.0, &naive::slerp(&d[0], &d[1], 0.25, 2.0));
        near(&whole(&op, &x).0, &want, 4e-7, &spread);
        let op = json!({"nuslerp": {"weights": [3.0, 1.0], "base": false}});
        let want = naive::slerp(&v[0], &v[1], 0.25, 2.0);
        near(&whole(&op, &x[..2]).0, &want, 4e-7, &spread);
    }
    let x = operands(3, None);
    let of =
        |weights: [f64; 2]| whole(&json!({"nuslerp": {"weights": weights, "base": true}}), &x).0;
    assert_eq!(of([1.0, -1.0]), of([1.0, 1.0]), "weights that sum to nothing are equal ones");
    let same = [x[0].clone(), x[1].clone(), x[1].clone()];
    let (out, note) = whole(&json!({"nuslerp": {"weights": [1.0, 2.0], "base": true}}), &same);
    near(&out, &exact(&same)[1], 2e-7, &"equal deltas");
    assert!(note.is_some());
}

#[test]
fn multislerp_is_that_of_its_source_with_its_last_step() {
    for spread in SPREADS {
        let x = operands(4, spread);
        let v = exact(&x);
        let weights = [0.5, 0.2, 0.3];
        let op = |base, normalize, weights: &[f64]| {
            json!({"multislerp":
                {"weights": weights, "normalize": normalize, "eps": 1e-8, "base": base}})
        };
        let want = naive::multislerp(&v[..3], &weights, 1e-8);
        near(&whole(&op(false, false, &weights), &x[..3]).0, &want, 4e-7, &spread);
        near(&whole(&op(false, true, &[5.0, 2.0, 3.0]), &x[..3]).0, &want, 4e-7, &spread);
        let want = naive::plus(&v[0], 1.0, &naive::multislerp(&naive::deltas(&v), &weights, 1e-8));
        near(&whole(&op(true, true, &weights), &x).0, &want, 4e-7, &spread);
    }
    let opposite = [vec![1.0_f32, 2.0], vec![-1.0, -2.0]];
    let op = json!({"multislerp":
        {"weights": [1.0, 1.0], "normalize": true, "eps": 1e-8, "base": false}});
    assert_eq!(whole(&op, &opposite), (vec![0.0; 2], Some("directions cancel: linear".to_owned())));
}

#[test]
fn karcher_is_where_the_arcs_balance() {
    for (spread, tolerance) in SPREADS.into_iter().zip([2e-6, 1e-6, 4e-7, 4e-7]) {
        for count in [2, 3, 5] {
            let x = operands(count, spread);
            let (out, note) = whole(&json!({"karcher": {"max_iter": 40, "tol": 1e-7}}), &x);
            near(&out, &naive::karcher(&exact(&x)), tolerance, &(spread, count));
            assert_eq!(note, None, "{spread:?} {count}");
        }
    }
    let x = operands(3, None);
    let v = exact(&x);
    let (out, note) = whole(&json!({"karcher": {"max_iter": 0, "tol": 1e-5}}), &x);
    let third = [1.0 / 3.0; 3];
    near(&out, &naive::multislerp(&v, &third, 0.0_f64.max(1e-30)), 4e-7, &"the first guess");
    assert_eq!(note.as_deref(), Some("stopped at max_iter"));
    let zeros = vec![vec![0.0; 5]; 2];
    let (out, note) = whole(&json!({"karcher": {"max_iter": 10, "tol": 1e-5}}), &zeros);
    assert_eq!((out, note.is_some()), (vec![0.0; 5], true));
    let opposite = [vec![1.0_f32, 2.0], vec![-1.0, -2.0]];
    let (out, _) = whole(&json!({"karcher": {"max_iter": 10, "tol": 1e-5}}), &opposite);
    near(&out, &[1.0, 2.0], 2e-7, &"opposite points stay with the first");
}

#[test]
fn model_stock_goes_as_far_as_the_angles_allow() {
    for spread in [None, Some(0.01), Some(1e-3)] {
        for count in [3, 4, 6] {
            let x = operands(count, spread);
            let (out, note) = whole(&json!({"model_stock": {"floor": 1e-6}}), &x);
            near(&out, &naive::model_stock(&exact(&x)), 4e-7, &(spread, count));
            assert_eq!(note, None);
        }
    }
    let x = operands(2, None);
    let still = [x[0].clone(), x[0].clone(), x[0].clone()];
    assert!(whole(&json!({"model_stock": {"floor": 1e-6}}), &still).1.is_some());
    assert_eq!(whole(&json!({"model_stock": {"floor": 1e-6}}), &still).0, x[0]);
    let moved = [x[0].clone(), x[1].clone(), x[1].clone()];
    near(
        &whole(&json!({"model_stock": {"floor": 1e-6}}), &moved).0,
        &exact(&moved)[1],
        2e-7,
        &"equal models",
    );
}

#[test]
fn orthogonal_adds_nothing_along_the_first_delta() {
    for spread in SPREADS {
        let x = operands(3, spread);
        let v = exact(&x);
        let op = |base| json!({"orthogonal": {"alpha": 0.7, "base": base}});
        let d = naive::deltas(&v);
        let want = naive::plus(&v[0], 1.0, &naive::orthogonal(&d[0], &d[1], 0.7));
        near(&whole(&op(true), &x).0, &want, 4e-7, &spread);
        let want = naive::orthogonal(&v[0], &v[1], 0.7);
        near(&whole(&op(false), &x[..2]).0, &want, 4e-7, &spread);
    }
    let x = operands(2, None);
    let unmoved = [x[0].clone(), x[0].clone(), x[1].clone()];
    let (out, note) = whole(&json!({"orthogonal": {"alpha": 1.0, "base": true}}), &unmoved);
    near(&out, &exact(&unmoved)[2], 2e-7, &"nothing is along no delta");
    assert!(note.is_some());
}

#[test]
fn the_geometric_median_is_that_of_weiszfeld() {
    let op = |weights: &[f64], max_iter: u32| {
        json!({"geometric_median":
            {"weights": weights, "max_iter": max_iter, "tol": 1e-14, "eps": 1e-12}})
    };
    for spread in SPREADS {
        for weights in [&[1.0, 1.0, 1.0][..], &[2.0, 1.5, 1.0, 0.7]] {
            let x = operands(weights.len() as u64, spread);
            let (out, note) = whole(&op(weights, 500), &x);
            let want = naive::geometric_median(&exact(&x), weights);
            near(&out, &want, 2e-6, &(spread, weights));
            assert_eq!(note, None, "{spread:?}");
        }
    }
    let x = operands(3, None);
    let (mean, note) = whole(&op(&[1.0, 1.0, 1.0], 0), &x);
    near(&mean, &naive::sum(&[1.0 / 3.0; 3], &exact(&x)), 2e-7, &"the first guess");
    assert!(note.is_some());
    let same = vec![x[1].clone(); 3];
    assert_eq!(whole(&op(&[1.0, 1.0, 1.0], 10), &same), (x[1].clone(), None));
}

#[test]
fn a_line_walked_at_the_norm_between_its_ends() {
    for spread in SPREADS {
        let x = operands(2, spread);
        let v = exact(&x);
        for t in [0.0, 0.4, 1.0] {
            let (out, _) = whole(&json!({"norm_lerp": {"alpha": t}}), &x);
            near(&out, &naive::norm_lerp(&v[0], &v[1], t), 4e-7, &(spread, t));
        }
    }
    let opposite = [vec![1.0_f32, 2.0], vec![-1.0, -2.0]];
    let (out, note) = whole(&json!({"norm_lerp": {"alpha": 0.5}}), &opposite);
    assert_eq!((out, note.is_some()), (vec![0.0; 2], true));
}

#[test]
fn every_rule_by_rows_is_the_rule_on_each_row() {
    let rules = [
        (json!({"slerp": {"alpha": 0.3}}), 2),
        (json!({"nuslerp": {"weights": [1.0, 2.0], "base": true}}), 3),
        (json!({"nuslerp": {"weights": [1.0, 2.0], "base": false}}), 2),
        (json!({"model_stock": {"floor": 1e-6}}), 4),
        (json!({"norm_lerp": {"alpha": 0.3}}), 2),
        (json!({"karcher": {"max_iter": 10, "tol": 1e-5}}), 3),
    ];
    for (op, count) in rules {
        let x = operands(count, Some(0.02));
        for row in [1, 7, 64, BLOCK + 3] {
            let whole_rows = LEN / row * row;
            let x: Vec<_> = x.iter().map(|x| x[..whole_rows].to_vec()).collect();
            let each = runner(EachRow(combine(&op).rule()), size(&x)).expect("usable arguments");
            let (rows, _) = run(&*each, row, &x);
            for first in (0..whole_rows).step_by(row) {
                let one: Vec<_> = x.iter().map(|x| x[first..first + row].to_vec()).collect();
                assert_eq!(whole(&op, &one).0, rows[first..first + row], "{op} {row} {first}");
            }
        }
    }
}

#[test]
fn an_element_that_is_not_finite_spoils_no_other() {
    let rules = [
        json!({"slerp": {"alpha": 0.3}}),
        json!({"karcher": {"max_iter": 10, "tol": 1e-5}}),
        json!({"norm_lerp": {"alpha": 0.3}}),
        json!({"orthogonal": {"alpha": 0.3, "base": false}}),
        json!({"geometric_median":
            {"weights": [1.0, 1.0], "max_iter": 10, "tol": 1e-9, "eps": 1e-9}}),
    ];
    for op in rules {
        let mut x = operands(2, Some(0.02));
        (x[0][5], x[1][5]) = (0.0, 0.0);
        let clean = whole(&op, &x).0;
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[1][5] = wrong;
            let mut out = whole(&op, &x).0;
            assert!(!out[5].is_finite(), "{op}");
            out[5] = clean[5];
            near(&out, &exact(std::slice::from_ref(&clean))[0], 2e-7, &op);
        }
    }
}

#[test]
fn unusable_arguments_are_refused() {
    let wrong = |op: Value, operands: usize, what: &str| {
        let error = combine(&op).rule().check(operands).expect_err("a refusal");
        assert!(error.contains(what), "{error}");
    };
    wrong(json!({"slerp": {"alpha": 0.5}}), 3, "slerp of 3 operands, expected 2");
    wrong(json!({"nuslerp": {"weights": [1.0, 1.0], "base": true}}), 2, "expected 3");
    wrong(json!({"nuslerp": {"weights": [1.0], "base": false}}), 2, "1 weights for 2 models");
    wrong(json!({"model_stock": {"floor": 1e-6}}), 2, "expected at least 3");
    wrong(json!({"karcher": {"max_iter": 1, "tol": -1.0}}), 2, "tol -1");
    wrong(json!({"norm_lerp": {"alpha": 0.5}}), 1, "expected 2");
    wrong(json!({"orthogonal": {"alpha": 0.5, "base": true}}), 2, "expected 3");
    let median = |weights: [f64; 2], eps: f64| json!({"geometric_median": {"weights": weights, "max_iter": 1, "tol": 0.0, "eps": eps}});
    wrong(median([0.0, 0.0], 1.0), 2, "weights of 0 only");
    wrong(median([-1.0, 2.0], 1.0), 2, "weight -1");
    wrong(median([1.0, 1.0], 0.0), 2, "eps 0");
    let multislerp = |weights: [f64; 2]| json!({"multislerp": {"weights": weights, "normalize": true, "eps": 0.0, "base": false}});
    wrong(multislerp([1.0, -1.0]), 2, "weights that sum to 0");
    assert!(serde_json::from_value::<Combine>(json!({"slerp": {"alpha": 1, "t": 1}})).is_err());
}
