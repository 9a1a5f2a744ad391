//! Formulas of single elements with numbers that follow from the whole unit: how far models differ
//! in it, where, and by how much.
//!
//! Each sees the unit first and then forms every element by itself. Results are rounded to f32
//! step by step, nothing is fused; sums over the unit are in f64 on the grid, or exact counts.

use super::family::family;
use super::runner::{Running, runner};
use super::tile::Whole;

mod cosine;
mod fusion;
mod ramplus;
mod sce;

family! {
    /// The formulas.
    Adaptive: runner(kernel, whole: Whole) -> Running { runner(kernel, whole) }
    /// The elements that matter most, whole.
    "arcee_fusion" => ArceeFusion(fusion::ArceeFusion),
    /// A way whose share follows from the angle of two columns.
    "cosine" => Cosine(cosine::Cosine),
    /// What one model alone changed, the stronger the more it shares elsewhere.
    "ramplus_tl" => RamplusTl(ramplus::RamplusTl),
    /// The elements models differ in most, weighted by how far each has moved.
    "sce" => Sce(sce::Sce),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Adaptive, Whole};

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        let cases = [
            (json!({"cosine": {"alpha": 0.5, "whole": true}}), 3, "cosine of 3 operands"),
            (json!({"cosine": {"alpha": 1e300, "whole": true}}), 2, "expected a finite f32"),
            (json!({"arcee_fusion": {}}), 3, "expected a base and a model"),
            (json!({"sce": {"select_topk": 1.0, "floor": 0.0}}), 1, "at least one model"),
            (json!({"sce": {"select_topk": 1.5, "floor": 0.0}}), 2, "expected 0 to 1"),
            (json!({"sce": {"select_topk": 1.0, "floor": -1.0}}), 2, "at least 0"),
            (json!({"ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 0.0}}), 1, "one model"),
            (json!({"ramplus_tl": {"r": -0.1, "alpha": 0.2, "epsilon": 0.0}}), 2, "with r -0.1"),
        ];
        for (raw, operands, words) in cases {
            let formula: Adaptive = serde_json::from_value(raw.clone()).expect("a formula");
            let what = formula.runner(Whole { operands, elements: 9 }).expect_err("a refusal");
            assert!(what.contains(words), "{raw} {operands}: {what}");
        }
        let unknown = json!({"sce": {"select_topk": 1.0, "floor": 0.0, "top": 1.0}});
        assert!(serde_json::from_value::<Adaptive>(unknown).is_err());
    }
}
