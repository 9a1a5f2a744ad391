//! What models add to a base: task arithmetic, and its thinned and voted variants.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;

use self::mask::Mask;
pub use self::mix::{Consensus, Even, Normalize};
use self::mix::{Formula, Mix, Signs};
pub use self::sparsify::{Everything, Sparsify};
pub use self::vote::Known;
use self::vote::{Seen, Stage};
use super::family::family;
use super::kernel::{Kernel, Next, Step};
use super::runner::{Running, runner};
use super::select::LONGEST;
use super::tile::{Tile, Whole};
use crate::simd::Isa;

mod bits;
mod chance;
mod largest;
mod lengths;
mod mask;
mod mix;
mod order;
mod random;
mod sparsify;
mod vote;

pub use self::largest::{Held, Magnitude};

family! {
    /// What of the differences `d` of a unit of `n` elements is left. A density of 1 leaves a model as
    /// it is; lists have one entry for each model.
    Sparsifier: runner(sparsify, delta: Delta<()>, whole: Whole) -> Running
        { runner(delta.with(sparsify), whole) }
    /// Everything.
    "none" => None(Everything),
    /// The `max(1, floor(density n))` largest magnitudes, of equals those of lowest index; nothing
    /// at a density of 0. TIES.
    "magnitude" => Magnitude(Magnitude),
    /// Without the `min(floor(gamma n), n - k)` largest, the `k = floor(density n)` next largest
    /// magnitudes; of equals those of lowest index count as larger. Davari and Belilovsky 2023,
    /// "Model breadcrumbs", arXiv:2312.06795, with mergekit's counts.
    "outliers" => Outliers(largest::Outliers),
    /// Each with a probability of `density`: if its word of noise (see `noise`) is below
    /// `floor(density 2^32)`. Yu et al. 2023, "DARE", arXiv:2311.03099.
    "random" => Random(random::Random),
    /// Each with a probability of `(density - epsilon) + r / (c - 1) 2 epsilon`, formed in f64, where
    /// `r` is the place of its magnitude in its row of `c` elements, the smallest at 0 and of equals
    /// the lowest column first; the word of noise decides as above. In a row of one element the
    /// probability is `density`. Nothing at a density of 0. Deep et al. 2024, "DELLA-merging",
    /// arXiv:2406.11617.
    "rank" => Rank(chance::Rank),
}

/// `out = b + lambda (sum_i m_i p_i) / divisor`, with `p_i = w_i s_i(x_i - b)`; operand 0 is the
/// base `b`, the others are the models.
///
/// For each element, every result rounded to f32, nothing fused, models in the plan's order:
/// 1. `d_i = x_i - b`.
/// 2. The sparsifier multiplies `d_i` by 0 or 1, or by 0 or its scale ([`Sparsifier`]).
/// 3. `p_i = d_i w_i`, the weight rounded to f32 once.
/// 4. With a consensus, `S = ((0 + v_0) + v_1) + ...`, where `v_i` is `p_i`, its sign, or without
///    weights what step 2 left of `d_i`; the majority is positive if `S > 0`, and
///    where `S = 0` as [`Even`] says. `m_i` is 1 where `v_i` has the sign of the majority and is not 0, else 0. Without a consensus
///    every `m_i` is 1.
/// 5. `M = ((0 + p_0 m_0) + p_1 m_1) + ...` and `D = ((0 + w_0 m_0) + w_1 m_1) + ...`, or with 1 for
///    every weight where models are counted.
/// 6. If normalised, `M = M / D`, where `D = 0` (or without a consensus `|D| < 1e-8`) counts as 1.
/// 7. `out = b + M lambda`.
///
/// An operand that is not finite makes the element NaN or infinite, whether it is masked or not. With
/// densities of 1 this is mergekit's arithmetic in `dtype: float32`, bit for bit.
///
/// Source: Ilharco et al. 2023, "Editing models with task arithmetic", arXiv:2212.04089; Yadav et
/// al. 2023, "TIES-merging", arXiv:2306.01708; steps 3 to 7 as mergekit 0.1.5, which elects the sign
/// of the weighted sum where the paper elects that of the plain one, and divides by weights where
/// the paper, which has none, divides by their number.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Delta<S> {
    /// One finite weight for each model.
    pub weights: Vec<f64>,
    /// What the sum is multiplied by.
    pub lambda: f64,
    /// What the sum is divided by.
    pub normalize: Normalize,
    /// Which models take part in an element.
    pub consensus: Consensus,
    /// Which sign wins where their sum is exactly 0.
    pub even: Even,
    /// What of a difference is left.
    pub sparsify: S,
}

impl<S> Delta<S> {
    /// The same with what another sparsifier leaves.
    pub fn with<T>(self, sparsify: T) -> Delta<T> {
        let Self { weights, lambda, normalize, consensus, even, .. } = self;
        Delta { weights, lambda, normalize, consensus, even, sparsify }
    }
}

impl Delta<Sparsifier> {
    /// At work on a unit.
    ///
    /// # Errors
    /// As [`Kernel::check`].
    pub fn runner(self, whole: Whole) -> Running {
        let sparsify = self.sparsify.clone();
        sparsify.runner(self.with(()), whole)
    }
}

impl<S: Sparsify> Kernel for Delta<S> {
    type Sums = Seen<S::Sums, S::Learned>;
    type Learned = Known<S::Learned>;

    fn check(&self, operands: usize) -> Result<(), String> {
        let models = self.weights.len();
        if models == 0 || operands != models + 1 {
            return Err(format!(
                "{models} weights for {operands} operands, expected one for each but the base"
            ));
        }
        let finite = |x: &&f64| !(**x as f32).is_finite();
        if let Some(bad) = self.weights.iter().chain([&self.lambda]).find(finite) {
            return Err(format!("weight or lambda {bad:?}, expected a finite f32"));
        }
        self.sparsify.check(models)
    }

    fn passes(&self) -> usize {
        self.sparsify.passes() + usize::from(self.votes())
    }

    fn start(&self, whole: Whole) -> Next<Self> {
        self.next(self.sparsify.start(whole))
    }

    fn reduce(&self, tile: Tile, seen: &mut Self::Sums) {
        match &mut seen.stage {
            Stage::Sparsify(sums) => self.sparsify.reduce(tile, sums),
            Stage::Vote(kept) => {
                let mut signs = 0;
                let formula = &self.formula(true);
                self.each(tile, kept, |_, operands, masks, weights| {
                    signs += tile.isa.run(Signs { formula, operands, masks, weights });
                });
                seen.signs += signs;
            }
        }
    }

    fn learn(&self, total: Self::Sums) -> Next<Self> {
        match total.stage {
            Stage::Sparsify(sums) => self.next(self.sparsify.learn(sums)),
            Stage::Vote(kept) => Step::Known(Known { kept, positive: total.signs > 0 }),
        }
    }

    fn map(&self, tile: Tile, known: &Self::Learned, out: &mut [f32]) {
        let formula = &self.formula(known.positive);
        self.each(tile, &known.kept, |range, operands, masks, weights| {
            tile.isa.run(Mix { formula, operands, masks, weights, out: &mut out[range] });
        });
    }

    fn spans(&self, seen: &Self::Sums, part: Range<u64>) -> Vec<Range<u64>> {
        match &seen.stage {
            Stage::Sparsify(sums) => self.sparsify.spans(sums, part),
            Stage::Vote(_) => vec![part],
        }
    }

    fn by_rows(&self) -> bool {
        self.sparsify.by_rows()
    }

    fn longest(&self) -> u64 {
        LONGEST
    }

    fn state_bytes(&self, _: usize, tile: usize) -> u64 {
        self.sparsify.state_bytes(self.weights.len(), tile)
    }

    fn kept_bytes(&self, whole: Whole) -> u64 {
        self.sparsify.kept_bytes(self.weights.len(), whole.elements)
    }

    fn key(&self) -> Option<String> {
        if self.remembers() {
            return Some(format!("signs {:?}", self.sparsify));
        }
        self.sparsify.key()
    }

    fn statistics(&self, known: &Self::Learned) -> Option<Vec<u64>> {
        let kept = self.sparsify.statistics(&known.kept);
        if self.remembers() {
            let sign = u64::from(known.positive);
            return Some(kept.unwrap_or_default().into_iter().chain([sign]).collect());
        }
        kept
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Next<Self>> {
        let (sign, kept) = if self.remembers() {
            let (sign, kept) = statistics.split_last()?;
            (Some(*sign), kept)
        } else {
            (None, statistics)
        };
        let kept = match self.sparsify.start(whole) {
            Step::Known(known) => kept.is_empty().then_some(known)?,
            Step::Pass(_) => self.sparsify.recall(whole, kept)?,
        };
        match sign {
            Some(sign @ 0..=1) => {
                Some(Step::Known(Known { kept: Arc::new(kept), positive: sign == 1 }))
            }
            Some(_) => None,
            None => Some(self.next(Step::Known(kept))),
        }
    }
}

impl<S: Sparsify> Delta<S> {
    /// Whether it must be known whose sign has the majority; of one model nothing can cancel.
    fn votes(&self) -> bool {
        let several = self.weights.len() > 1 && self.consensus != Consensus::None;
        several && self.even == Even::Majority
    }

    /// Whether that is worth keeping: it depends on no weight.
    fn remembers(&self) -> bool {
        self.votes() && self.consensus == Consensus::Plain
    }

    /// What comes after a step of the sparsifier.
    fn next(&self, step: Step<S::Sums, S::Learned>) -> Next<Self> {
        let stage = match step {
            Step::Pass(sums) => Stage::Sparsify(sums),
            Step::Known(kept) if self.votes() => Stage::Vote(Arc::new(kept)),
            Step::Known(kept) => {
                return Step::Known(Known { kept: Arc::new(kept), positive: true });
            }
        };
        Step::Pass(Seen { stage, signs: 0 })
    }

    /// Shows the operands and what stays of them, as much of a tile at once as the sparsifier wants.
    fn each(
        &self,
        tile: Tile,
        kept: &S::Learned,
        mut show: impl FnMut(Range<usize>, &[&[f32]], &[Mask], &[f32]),
    ) {
        let weights: Vec<_> = self.weights.iter().map(|w| *w as f32).collect();
        let masks = |tile: Tile| -> Vec<Mask> {
            (0..weights.len()).map(|model| self.sparsify.mask(model, tile, kept)).collect()
        };
        let n = tile.operands[0].len();
        let Some(step) = self.sparsify.step(tile.row.max(1)) else {
            return show(0..n, tile.operands, &masks(tile), &weights);
        };
        for at in (0..n).step_by(step) {
            let range = at..n.min(at + step);
            let operands: Vec<_> = tile.operands.iter().map(|x| &x[range.clone()]).collect();
            let first = tile.first + at as u64;
            let masks = masks(Tile { first, operands: &operands, ..tile });
            show(range, &operands, &masks, &weights);
        }
    }

    fn formula(&self, positive: bool) -> Formula {
        // The sum of all weights; 1 if there is as good as none.
        let sum = match self.normalize {
            Normalize::Count => self.weights.len() as f32,
            _ => self.weights.iter().fold(0.0, |sum, w| sum + *w as f32),
        };
        Formula {
            consensus: self.consensus,
            positive,
            normalize: self.normalize,
            lambda: self.lambda as f32,
            divisor: if sum.abs() < 1e-8 { 1.0 } else { sum },
        }
    }
}

impl<S: Held> Delta<S> {
    /// What is known of differences that someone else holds, a model of `n` elements at a time; `None`
    /// if `differences` gives none, or `stop` says so. Where they cancel the positive sign wins.
    pub fn hold(
        &self,
        on: (&Isa, &dyn Fn() -> bool),
        n: usize,
        mut differences: impl FnMut(usize) -> Option<Vec<f32>>,
    ) -> Option<Known<S::Learned>> {
        let kept = self.sparsify.hold(on, (self.weights.len(), n), &mut differences)?;
        Some(Known { kept: Arc::new(kept), positive: true })
    }
}
