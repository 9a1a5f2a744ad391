//! What models add to a base: task arithmetic, and its thinned and voted variants.

use std::ops::Range;

use serde::Deserialize;

use self::chance::PART;
use self::mask::masks;
use self::mix::Mix;
use super::select::{self, LOOKS};
use super::sums::{Learned, Sums};
use super::{Stretch, Whole};
use crate::simd::{BLOCK, Isa};

mod bits;
mod chance;
mod learn;
mod mask;
mod mix;
mod rank;
mod recall;

pub use learn::{Found, Lengths};
pub(super) use recall::statistics;

/// The most bytes that are kept of what was chosen in a look: 24 MiB are three models' differences of
/// the largest matrix of FLUX.1. Choosing again gives the same, and takes as long again.
const CHOSEN: u64 = 24 << 20;

/// `out = b + lambda (sum_i m_i p_i) / divisor`, with `p_i = w_i s_i(x_i - b)`; operand 0 is the
/// base `b`, the others are the models.
///
/// For each element, every result rounded to f32, nothing fused, models in the plan's order:
/// 1. `d_i = x_i - b`.
/// 2. The sparsifier multiplies `d_i` by 0 or 1, or by 0 or its scale ([`Sparsify`]).
/// 3. `p_i = d_i w_i`, the weight rounded to f32 once.
/// 4. With a consensus, `S = ((0 + v_0) + v_1) + ...`, where `v_i` is `p_i`, its sign, or without
///    weights what step 2 left of `d_i`; the majority is positive if `S >= 0`, so also if it is 0.
///    `m_i` is 1 where `v_i` has the sign of the majority and is not 0, else 0. Without a consensus
///    every `m_i` is 1.
/// 5. `M = ((0 + p_0 m_0) + p_1 m_1) + ...` and `D = ((0 + w_0 m_0) + w_1 m_1) + ...`.
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
pub struct Delta {
    /// One finite weight for each model.
    pub weights: Vec<f64>,
    /// What the sum is multiplied by.
    pub lambda: f64,
    /// Whether the sum is divided by the weights that went into it.
    pub normalize: bool,
    /// Which models take part in an element.
    pub consensus: Consensus,
    /// What of a difference is left.
    pub sparsify: Sparsify,
}

/// Which models take part in an element.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Consensus {
    /// All.
    None,
    /// Those that agree with the sign of the sum without weights.
    Plain,
    /// Those that agree with the sign of the sum.
    Sum,
    /// Those that agree with the sign that most have.
    Count,
}

/// What of the differences `d` of a unit of `n` elements is left. A density of 1 leaves a model as
/// it is; lists have one entry for each model.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sparsify {
    /// Everything.
    None {},
    /// The `max(1, floor(density n))` largest magnitudes, of equals those of lowest index; nothing
    /// at a density of 0. TIES.
    Magnitude(Magnitude),
    /// Without the `min(floor(gamma n), n - k)` largest, the `k = floor(density n)` next largest
    /// magnitudes; of equals those of lowest index count as larger. Davari and Belilovsky 2023,
    /// "Model breadcrumbs", arXiv:2312.06795, with mergekit's counts.
    Outliers(Outliers),
    /// Each with a probability of `density`: if its word of noise (see `noise`) is below
    /// `floor(density 2^32)`. Yu et al. 2023, "DARE", arXiv:2311.03099.
    Random(Random),
    /// Each with a probability of `(density - epsilon) + r / (c - 1) 2 epsilon`, formed in f64, where
    /// `r` is the place of its magnitude in its row of `c` elements, the smallest at 0 and of equals
    /// the lowest column first; the word of noise decides as above. In a row of one element the
    /// probability is `density`. Nothing at a density of 0. Deep et al. 2024, "DELLA-merging",
    /// arXiv:2406.11617.
    Rank(Rank),
}

/// The largest stay.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Magnitude {
    /// The shares that stay.
    pub density: Vec<f64>,
}

/// The largest go, and the smallest.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Outliers {
    /// The shares that stay.
    pub density: Vec<f64>,
    /// The shares that go from the top.
    pub gamma: Vec<f64>,
}

/// Chance decides.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// The shares that stay.
    pub density: Vec<f64>,
    /// The keys of the noise.
    pub keys: Vec<u64>,
    /// What makes up for what went.
    pub rescale: Rescale,
}

/// Chance decides, and favours large magnitudes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Rank {
    /// The shares that stay.
    pub density: Vec<f64>,
    /// How far the probability falls below and rises above the share.
    pub epsilon: Vec<f64>,
    /// The keys of the noise.
    pub keys: Vec<u64>,
    /// What makes up for what went.
    pub rescale: Rescale,
}

/// What makes up for the elements that went: a factor on those that stay, rounded to f32.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Rescale {
    /// Nothing.
    None,
    /// One over the probability with which the element stayed.
    Inverse,
    /// The sum of all magnitudes over that of those left, both in f64; 1 if one of them is below
    /// 1e-7.
    L1,
}

impl Delta {
    pub(super) fn check(&self, operands: usize) -> Result<(), String> {
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

    pub(super) fn by_rows(&self) -> bool {
        matches!(self.sparsify, Sparsify::Rank(_))
    }

    pub(super) fn passes(&self) -> usize {
        match self.sparsify {
            Sparsify::None {} => 0,
            Sparsify::Magnitude(_) | Sparsify::Outliers(_) => LOOKS,
            Sparsify::Random(Random { rescale, .. }) | Sparsify::Rank(Rank { rescale, .. }) => {
                usize::from(rescale == Rescale::L1)
            }
        }
    }

    /// How many sets of the largest there are to find.
    fn targets(&self) -> u64 {
        let models = self.weights.len() as u64;
        match self.sparsify {
            Sparsify::Magnitude(_) => models,
            Sparsify::Outliers(_) => 2 * models,
            _ => 0,
        }
    }

    /// Bytes that a worker holds besides the operands: counts, or masks and what they are made of.
    pub(super) fn state_bytes(&self, stretch: usize) -> u64 {
        let models = self.weights.len() as u64;
        let stretch = (stretch.max(BLOCK) * size_of::<f32>()) as u64;
        match self.sparsify {
            Sparsify::None {} => 0,
            Sparsify::Magnitude(_) | Sparsify::Outliers(_) => select::state_bytes(self.targets()),
            Sparsify::Random(_) => models * stretch,
            // Beside the masks, what the order of a row takes.
            Sparsify::Rank(_) => (3 * models + 10) * stretch,
        }
    }

    /// Bytes that are kept of a unit of so many elements: samples and counts, or what was chosen.
    pub(super) fn kept_bytes(&self, elements: u64) -> u64 {
        match self.targets() {
            0 => self.chosen_bytes(elements),
            targets => select::kept_bytes(self.weights.len() as u64, targets),
        }
    }

    /// Bytes of the elements chosen by rank, which are kept unless they are too many.
    fn chosen_bytes(&self, elements: u64) -> u64 {
        let thinned = (0..self.weights.len()).filter(|model| self.sparsify.thins(*model)).count();
        match self.sparsify {
            Sparsify::Rank(Rank { rescale: Rescale::L1, .. }) => {
                let bytes = elements.div_ceil(8).saturating_mul(thinned as u64);
                if bytes <= CHOSEN { bytes } else { 0 }
            }
            _ => 0,
        }
    }

    pub(super) fn map(&self, stretch: Stretch, learned: &Learned, out: &mut [f32]) {
        let weights: Vec<_> = self.weights.iter().map(|w| *w as f32).collect();
        let mix = |stretch: Stretch, out: &mut [f32]| {
            let masks = masks(self, stretch, learned);
            let (operands, divisor) = (stretch.operands, self.divisor());
            let (masks, weights) = (&masks[..], &weights[..]);
            stretch.isa.run(Mix { delta: self, operands, masks, weights, divisor, out });
        };
        if !self.sparsify.weighs_by_rank() {
            return mix(stretch, out);
        }
        let step = (PART / stretch.row.max(1)).max(1) * stretch.row.max(1);
        for (i, out) in out.chunks_mut(step).enumerate() {
            let range = i * step..i * step + out.len();
            let operands: Vec<_> = stretch.operands.iter().map(|x| &x[range.clone()]).collect();
            let first = stretch.first + range.start as u64;
            mix(Stretch { first, operands: &operands, ..stretch }, out);
        }
    }

    /// The sum of all weights; 1 if there is as good as none.
    fn divisor(&self) -> f32 {
        let sum = self.weights.iter().fold(0.0, |sum, w| sum + *w as f32);
        if sum.abs() < 1e-8 { 1.0 } else { sum }
    }

    pub(super) fn start(&self, pass: usize, whole: Whole, learned: &Learned) -> Option<Sums> {
        learn::start(self, pass, whole, learned)
    }

    pub(super) fn spans(
        &self,
        whole: Whole,
        learned: &Learned,
        part: Range<u64>,
    ) -> Vec<Range<u64>> {
        learn::spans(self, whole, learned, part)
    }

    pub(super) fn reduce(&self, _: usize, stretch: Stretch, learned: &Learned, sums: &mut Sums) {
        match sums {
            Sums::Samples(_) | Sums::Tallies(_) => learn::count(stretch, learned, sums),
            Sums::Lengths(lengths) => learn::measure(self, stretch, lengths),
            _ => {}
        }
    }

    /// What is learned of differences that someone else holds, a model of `n` elements at a time; nothing
    /// if `differences` gives none, or `stop` says so.
    pub(super) fn look_at(
        &self,
        (isa, stop): (&Isa, &dyn Fn() -> bool),
        n: usize,
        differences: impl FnMut(usize) -> Option<Vec<f32>>,
    ) -> Option<Learned> {
        learn::look(self, (isa, stop), n, differences)
    }

    pub(super) fn learn(&self, _: usize, sums: &Sums, learned: &Learned) -> Learned {
        learn::learn(self, sums, learned)
    }
}

impl Sparsify {
    /// The shares that stay, one for each model.
    fn density(&self) -> &[f64] {
        match self {
            Self::None {} => &[],
            Self::Magnitude(Magnitude { density })
            | Self::Outliers(Outliers { density, .. })
            | Self::Random(Random { density, .. })
            | Self::Rank(Rank { density, .. }) => density,
        }
    }

    /// Whether every element has a factor of its own.
    fn weighs_by_rank(&self) -> bool {
        matches!(self, Self::Rank(Rank { rescale: Rescale::Inverse, .. }))
    }

    /// Whether anything of a model goes.
    fn thins(&self, model: usize) -> bool {
        self.density().get(model).is_some_and(|density| *density < 1.0)
    }

    fn check(&self, models: usize) -> Result<(), String> {
        let shares = |name: &str, shares: &[f64]| {
            if shares.len() != models {
                return Err(format!("{} of {name}, expected {models}", shares.len()));
            }
            match shares.iter().find(|share| !(0.0..=1.0).contains(*share)) {
                Some(share) => Err(format!("{name} {share}, expected 0 to 1")),
                None => Ok(()),
            }
        };
        let keys = |keys: &[u64]| {
            let n = keys.len();
            if n == models { Ok(()) } else { Err(format!("{n} keys, expected {models}")) }
        };
        match self {
            Self::None {} => Ok(()),
            Self::Magnitude(args) => shares("density", &args.density),
            Self::Outliers(args) => {
                shares("density", &args.density)?;
                shares("gamma", &args.gamma)
            }
            Self::Random(args) => {
                shares("density", &args.density)?;
                keys(&args.keys)
            }
            Self::Rank(args) => {
                shares("density", &args.density)?;
                shares("epsilon", &args.epsilon)?;
                let mut pairs = args.density.iter().zip(&args.epsilon);
                let bad = |(p, e): &(&f64, &f64)| {
                    **p > 0.0 && **p < 1.0 && (*p - *e <= 0.0 || *p + *e >= 1.0)
                };
                if let Some((p, e)) = pairs.find(bad) {
                    return Err(format!(
                        "density {p} and epsilon {e}, expected their sum and difference between 0 and 1"
                    ));
                }
                keys(&args.keys)
            }
        }
    }
}
