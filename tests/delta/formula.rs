//! The formula on whole vectors, one step at a time.

use crate::job::Inputs;

#[derive(Clone, Copy)]
pub enum Thinning {
    None,
    Magnitude([f64; 3]),
    Outliers([f64; 3], [f64; 3]),
    Random([f64; 3], &'static str),
    Rank([f64; 3], [f64; 3], &'static str),
}

pub struct Formula<'a> {
    pub weights: [f32; 3],
    pub lambda: f32,
    pub normalize: bool,
    pub consensus: &'a str,
    pub thinning: Thinning,
    pub keys: [u64; 3],
}

fn sign(p: f32) -> f32 {
    if p == 0.0 { 0.0 } else { p.signum() }
}

impl Formula<'_> {
    pub fn of(&self, inputs: &Inputs) -> Vec<f32> {
        let base = &inputs.values[0];
        let weighted = |model: usize| -> Vec<f32> {
            let x = &inputs.values[model + 1];
            let deltas: Vec<f32> = x.iter().zip(base).map(|(x, b)| x - b).collect();
            let factors = self.factors(model, &deltas, inputs.columns);
            deltas.iter().zip(factors).map(|(d, f)| d * f * self.weights[model]).collect()
        };
        let products = [0, 1, 2].map(weighted);
        let parts = |i: usize| [0, 1, 2].map(|model| products[model][i]);
        let signs: f64 = (0..base.len()).map(|i| f64::from(sign(self.score(parts(i))))).sum();
        let even = if signs > 0.0 { 1.0 } else { -1.0 };
        (0..base.len()).map(|i| self.mix(base[i], parts(i), even)).collect()
    }

    fn score(&self, p: [f32; 3]) -> f32 {
        match self.consensus {
            "count" => p.iter().map(|p| sign(*p)).sum::<f32>(),
            _ => p[0] + p[1] + p[2],
        }
    }

    fn mix(&self, base: f32, p: [f32; 3], even: f32) -> f32 {
        let elected = sign(self.score(p));
        let majority = if elected == 0.0 { even } else { elected };
        let (mut mixed, mut divisor) = (0.0, 0.0);
        for (p, w) in p.iter().zip(self.weights) {
            let takes_part = self.consensus == "none" || sign(*p) == majority;
            mixed += if takes_part { *p } else { 0.0 };
            divisor += if takes_part { w } else { 0.0 };
        }
        let none = if self.consensus == "none" { divisor.abs() < 1e-8 } else { divisor == 0.0 };
        let divisor = if none || !self.normalize { 1.0 } else { divisor };
        base + mixed / divisor * self.lambda
    }

    fn factors(&self, model: usize, deltas: &[f32], columns: usize) -> Vec<f32> {
        let n = deltas.len();
        let whole = |density: [f64; 3]| density[model] >= 1.0;
        let share = |share: f64| (share * n as f64).floor() as usize;
        match self.thinning {
            Thinning::None => vec![1.0; n],
            Thinning::Magnitude(d) | Thinning::Outliers(d, _) if whole(d) => vec![1.0; n],
            Thinning::Random(d, _) | Thinning::Rank(d, ..) if whole(d) => vec![1.0; n],
            Thinning::Magnitude(density) => largest(deltas, 0, share(density[model]).max(1)),
            Thinning::Outliers(density, gamma) => {
                let kept = share(density[model]);
                let from = share(gamma[model]).min(n - kept);
                largest(deltas, from, from + kept)
            }
            Thinning::Random(density, rescale) => {
                self.chance(model, deltas, rescale, |_| density[model])
            }
            Thinning::Rank(density, epsilon, rescale) => {
                let ranks: Vec<_> = deltas.chunks(columns).flat_map(ranks).collect();
                self.chance(model, deltas, rescale, |i| {
                    let span = (columns - 1) as f64;
                    let low = density[model] - epsilon[model];
                    let share = ranks[i] as f64 / span;
                    if columns == 1 { density[model] } else { low + share * 2.0 * epsilon[model] }
                })
            }
        }
    }

    fn chance(
        &self,
        model: usize,
        deltas: &[f32],
        rescale: &str,
        p: impl Fn(usize) -> f64,
    ) -> Vec<f32> {
        let word = |i: usize| philox(self.keys[model], i as u64 / 4)[i % 4];
        let stays = |i: usize| f64::from(word(i)) < (p(i) * 2.0_f64.powi(32)).floor();
        let size = |i: usize| f64::from(deltas[i].abs());
        let all: f64 = (0..deltas.len()).filter(|i| size(*i).is_finite()).map(size).sum();
        let left = (0..deltas.len()).filter(|i| size(*i).is_finite() && stays(*i));
        let left: f64 = left.map(size).sum();
        let factor = |i: usize| match rescale {
            _ if !stays(i) => 0.0,
            "inverse" => (1.0 / p(i)) as f32,
            "l1" if all > 1e-7 && left > 1e-7 => (all / left) as f32,
            _ => 1.0,
        };
        (0..deltas.len()).map(factor).collect()
    }
}

/// 1 for the places `from..to` in the order of falling magnitude, the lowest index first.
fn largest(deltas: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut order: Vec<_> = (0..deltas.len()).collect();
    order.sort_by(|i, j| deltas[*j].abs().total_cmp(&deltas[*i].abs()).then(i.cmp(j)));
    let mut factors = vec![0.0; deltas.len()];
    order[from..to].iter().for_each(|i| factors[*i] = 1.0);
    factors
}

fn ranks(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<_> = (0..row.len()).collect();
    order.sort_by(|i, j| row[*i].abs().total_cmp(&row[*j].abs()));
    let mut ranks = vec![0; row.len()];
    order.iter().enumerate().for_each(|(rank, i)| ranks[*i] = rank);
    ranks
}

/// Philox4x32-10, one counter at a time.
fn philox(key: u64, counter: u64) -> [u32; 4] {
    let halves = |x: u64| (x as u32, (x >> 32) as u32);
    let ((mut k0, mut k1), (c0, c1)) = (halves(key), halves(counter));
    let mut c = [c0, c1, 0, 0];
    for _ in 0..10 {
        let (low0, high0) = halves(u64::from(c[0]) * 0xD251_1F53);
        let (low1, high1) = halves(u64::from(c[2]) * 0xCD9E_8D57);
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0];
        (k0, k1) = (k0.wrapping_add(0x9E37_79B9), k1.wrapping_add(0xBB67_AE85));
    }
    c
}
