//! The formulas of single elements, in f64.

use serde_json::{Value, json};

use crate::job::{Inputs, same};

/// Whether every element is within rounding of the formula: of three operations on values of size 1.
fn near(inputs: &Inputs, op: &Value, operands: usize, exact: impl Fn([f64; 4]) -> f64) {
    let got = inputs.first(operands).run(op);
    for (i, got) in got.iter().enumerate() {
        let x = [0, 1, 2, 3].map(|operand| f64::from(inputs.values[operand][i]));
        let want = exact(x);
        assert!((f64::from(*got) - want).abs() < 4e-7, "{op} {i}: {got}, expected {want} of {x:?}");
    }
}

#[test]
fn every_formula_is_that_of_f64() {
    let inputs = Inputs::smooth(97, 1003);
    near(&inputs, &json!({"pointwise": {"nearswap": {"t": 0.001}}}), 2, |[a, b, ..]| {
        let w = (0.001 / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
        w * b + (1.0 - w) * a
    });
    // No difference of f32 lies as near to the border as its own rounding.
    let epsilon = 1e-3 + 1e-11;
    near(&inputs, &json!({"pointwise": {"ram": {"epsilon": epsilon}}}), 4, |[b, x, y, z]| {
        let changed: Vec<_> =
            [x - b, y - b, z - b].into_iter().filter(|t| t.abs() > 1e-3).collect();
        b + changed.iter().sum::<f64>() / changed.len().max(1) as f64
    });
    near(
        &inputs,
        &json!({"pointwise": {"train_difference": {"alpha": 0.8}}}),
        3,
        |[a, b, c, _]| {
            let sum = (b - c).abs() + (b - a).abs();
            a + if sum == 0.0 { 0.0 } else { (b - c) * (b - a).abs() / sum * 1.8 * 0.8 }
        },
    );
    let clamp = json!({"weights": [1.0, 1.5, -1.5], "bounds": [true, true, false]});
    near(&inputs, &json!({"pointwise": {"clamp": clamp}}), 3, |[a, b, c, _]| {
        (a + 1.5 * b - 1.5 * c).max(a.min(b)).min(a.max(b))
    });
}

#[test]
fn differences_that_enough_models_need_stay() {
    // T = 3: the first model needs 2 of 3 up to a tolerance of 2, the second 1 of 3 up to 0.5.
    let columns: [Vec<f32>; 4] = [1.0, 3.0, 2.0, 1.0].map(|x| vec![x; 2000]);
    let inputs = Inputs::of(2000, 1, [&columns[0], &columns[1], &columns[2], &columns[3]]);
    let run = |tolerance: f64, agree: u32| {
        let args = json!({"weights": [1.0, 0.5, 1.0], "lambda": 2.0, "tolerance": tolerance,
            "agree": agree});
        inputs.run(&json!({"pointwise": {"consensus_mask": args}}))
    };
    let (all, none) = ([1.0 + 2.0 * 2.5; 2000], [1.0; 2000]);
    for (tolerance, needed) in [(0.4, 2), (0.6, 1), (1.9, 1), (2.1, 0)] {
        for agree in 0..4 {
            let want = if needed >= agree { &all } else { &none };
            assert!(same(&run(tolerance, agree), want, 0), "{tolerance} {agree}");
        }
    }
}

#[test]
fn equal_operands_give_themselves_and_nan_stays() {
    let mut x: Vec<f32> = (0..3000).map(|i| i as f32 * 0.1 - 100.0).collect();
    x[1000] = f32::NAN;
    let ops = [
        (json!({"nearswap": {"t": 0.1}}), 2),
        (json!({"ram": {"epsilon": 0}}), 4),
        (json!({"train_difference": {"alpha": 1}}), 3),
        (json!({"clamp": {"weights": [1, 1, -1], "bounds": [false, true, true]}}), 3),
        (
            json!({"consensus_mask": {"weights": [1, 1, 1], "lambda": 1, "tolerance": 1, "agree": 1}}),
            4,
        ),
    ];
    for (formula, operands) in ops {
        let inputs = Inputs::of(3000, 1, [&x, &x, &x, &x]).first(operands);
        let op = json!({"pointwise": formula});
        assert!(same(&inputs.run(&op), &x, 0), "{op}");
        let one_fewer = inputs.first(operands - 1);
        if operands < 4 {
            assert!(one_fewer.refused(&op).contains("expected"), "{op}");
        }
        for isa in submerge_core::simd::Isa::available() {
            let smooth = Inputs::smooth(97, 1003).first(operands);
            let options = json!({"isa": isa.name(), "threads": 1, "chunk": 1});
            assert!(same(&smooth.run_with(&op, &options), &smooth.run(&op), 0), "{op}");
        }
    }
}
