//! Formulas of single elements with numbers that follow from the whole unit: how far models differ
//! in it, where, and by how much.
//!
//! Each looks at the unit first and then forms every element by itself. Results are rounded to f32
//! step by step, nothing is fused; sums over the unit are in f64 on the grid, or exact counts.

use serde::Deserialize;

use super::select::{self, Target};
use super::sums::{Learned, Sums};
use super::{Stretch, Whole};

mod cosine;
mod fusion;
mod ramplus;
mod sce;

/// The formulas.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Adaptive {
    /// The elements that matter most, whole.
    ArceeFusion(fusion::ArceeFusion),
    /// A way whose share follows from the angle of two columns.
    Cosine(cosine::Cosine),
    /// What one model alone changed, the stronger the more it shares elsewhere.
    RamplusTl(ramplus::RamplusTl),
    /// The elements models differ in most, weighted by how far each has moved.
    Sce(sce::Sce),
}

/// What is known of a unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// For each model, row or column, as the formula says.
    numbers: Vec<f32>,
    /// The ends of sets of the largest.
    targets: Vec<Target>,
}

impl Facts {
    /// Whether an end is still to be found.
    fn open(&self) -> bool {
        self.targets.iter().any(|target| target.cut().is_none())
    }
}

/// One of the formulas.
trait Formula {
    fn check(&self, operands: usize) -> Result<(), String>;

    /// Whether it must see whole rows.
    fn by_rows(&self) -> bool {
        false
    }

    fn passes(&self) -> usize;

    fn start(&self, pass: usize, whole: Whole, facts: &Facts) -> Option<Sums>;

    fn reduce(&self, pass: usize, stretch: Stretch, facts: &Facts, sums: &mut Sums);

    fn learn(&self, pass: usize, sums: &Sums, facts: &Facts) -> Facts;

    /// How many sets of the largest it looks for.
    fn targets(&self) -> u64 {
        0
    }

    /// Bytes that a worker holds besides the operands and the counts for its sets.
    fn state_bytes(&self, operands: usize, stretch: usize) -> u64;

    fn map(&self, stretch: Stretch, facts: &Facts, out: &mut [f32]);

    /// As [`super::Kernel::never_recalled`].
    fn never_recalled(&self) -> usize {
        0
    }

    /// As [`super::Kernel::look`].
    fn look(&self) -> Option<String> {
        None
    }

    /// As [`super::Kernel::statistics`].
    fn statistics(&self, _: &Sums, _: &Facts) -> Option<Vec<u64>> {
        None
    }

    /// As [`super::Kernel::recall`].
    fn recall(&self, _: Whole, _: &[u64]) -> Option<Facts> {
        None
    }
}

impl Adaptive {
    fn formula(&self) -> &dyn Formula {
        match self {
            Self::ArceeFusion(formula) => formula,
            Self::Cosine(formula) => formula,
            Self::RamplusTl(formula) => formula,
            Self::Sce(formula) => formula,
        }
    }

    pub(super) fn check(&self, operands: usize) -> Result<(), String> {
        self.formula().check(operands)
    }

    pub(super) fn by_rows(&self) -> bool {
        self.formula().by_rows()
    }

    pub(super) fn passes(&self) -> usize {
        self.formula().passes()
    }

    pub(super) fn start(&self, pass: usize, whole: Whole, learned: &Learned) -> Option<Sums> {
        self.formula().start(pass, whole, facts(learned).unwrap_or(&Facts::default()))
    }

    pub(super) fn reduce(&self, pass: usize, stretch: Stretch, learned: &Learned, sums: &mut Sums) {
        let none = Facts::default();
        self.formula().reduce(pass, stretch, facts(learned).unwrap_or(&none), sums);
    }

    pub(super) fn learn(&self, pass: usize, sums: &Sums, learned: &Learned) -> Learned {
        let none = Facts::default();
        let facts = facts(learned).unwrap_or(&none);
        Learned::Adaptive(self.formula().learn(pass, sums, facts))
    }

    pub(super) fn state_bytes(&self, operands: usize, stretch: usize) -> u64 {
        self.formula().state_bytes(operands, stretch)
            + select::state_bytes(self.formula().targets())
    }

    pub(super) fn kept_bytes(&self) -> u64 {
        match self.formula().targets() {
            0 => 0,
            targets => select::kept_bytes(1, targets),
        }
    }

    pub(super) fn never_recalled(&self) -> usize {
        self.formula().never_recalled()
    }

    pub(super) fn look(&self) -> Option<String> {
        self.formula().look()
    }

    pub(super) fn statistics(&self, sums: &Sums, learned: &Learned) -> Option<Vec<u64>> {
        self.formula().statistics(sums, facts(learned)?)
    }

    pub(super) fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Learned> {
        self.formula().recall(whole, statistics).map(Learned::Adaptive)
    }

    /// # Panics
    /// If the unit was not looked at.
    pub(super) fn map(&self, stretch: Stretch, learned: &Learned, out: &mut [f32]) {
        match facts(learned) {
            Some(facts) => self.formula().map(stretch, facts, out),
            None => out.fill(f32::NAN),
        }
    }
}

fn facts(learned: &Learned) -> Option<&Facts> {
    match learned {
        Learned::Adaptive(facts) => Some(facts),
        _ => None,
    }
}

/// `Err` unless the argument is a finite f32 of at least 0.
fn expect_not_negative(name: &str, argument: &str, value: f64) -> Result<(), String> {
    if (value as f32).is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(format!("{name} with {argument} {value:?}, expected a finite f32 of at least 0"))
}

/// `Err` unless the number of operands fits.
fn expect_operands(name: &str, operands: usize, fits: bool, expected: &str) -> Result<(), String> {
    if fits { Ok(()) } else { Err(format!("{name} of {operands} operands, expected {expected}")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Adaptive;

    #[test]
    fn arguments_that_do_not_fit_are_told() {
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
            let what = formula.check(operands).expect_err("a refusal");
            assert!(what.contains(words), "{raw} {operands}: {what}");
        }
        let unknown = json!({"sce": {"select_topk": 1.0, "floor": 0.0, "top": 1.0}});
        assert!(serde_json::from_value::<Adaptive>(unknown).is_err());
    }
}
