//! Weighted sums.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use super::kernel::Direct;
use super::tile::Tile;
use crate::simd::Body;

/// `out = (w_0 x_0 + w_1 x_1 + ... + w_n x_n) / divisor`
///
/// Each weight and the divisor are rounded to f32 once. Order: `((w_0 x_0) + w_1 x_1) + ...`, operands in
/// the plan's order, every product, every sum and the quotient rounded to f32 to nearest even; no
/// fused multiply-add. Nothing is divided by 1. So a mean is one exact sum, where it fits into f32, and
/// one division: thirds rounded beforehand put what lies half between two numbers on one side. The
/// weights need not sum to the divisor. A non-finite operand makes the element non-finite, and the output
/// dtype gives NaN its one form.
///
/// Source: linear mode connectivity of fine-tuned weights; Wortsman et al. 2022, "Model soups",
/// arXiv:2203.05482.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// One finite weight per operand.
    pub weights: Vec<f64>,
    /// What the sum is divided by.
    #[serde(default = "undivided")]
    pub divisor: f64,
}

/// The divisor of a sum that is left as it is.
fn undivided() -> f64 {
    1.0
}

/// `out = out / divisor`.
struct Divide<'a> {
    divisor: f32,
    out: &'a mut [f32],
}

impl Body for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for x in self.out {
            *x /= self.divisor;
        }
    }
}

impl Linear {
    /// A sum that is not divided.
    #[must_use]
    pub fn sum(weights: Vec<f64>) -> Self {
        Self { weights, divisor: 1.0 }
    }
}

impl Direct for Linear {
    fn check(&self, operands: usize) -> Result<(), String> {
        if operands == 0 || operands != self.weights.len() {
            let weights = self.weights.len();
            return Err(format!(
                "{weights} weights for {operands} operands, expected one for each"
            ));
        }
        match self.weights.iter().find(|w| !(**w as f32).is_finite()) {
            None if self.divisor as f32 != 0.0 && (self.divisor as f32).is_finite() => Ok(()),
            None => Err(format!("divisor {:?}, expected a finite f32 but 0", self.divisor)),
            Some(weight) => Err(format!("weight {weight:?}, expected a finite f32")),
        }
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        let (isa, operands) = (tile.isa, tile.operands);
        assert_eq!(operands.len(), self.weights.len(), "operands of a linear kernel");
        let weight = |i: usize| self.weights[i] as f32;
        match *operands {
            [x] => isa.scale(x, weight(0), out),
            [x0, x1, ..] => isa.blend([x0, x1], [weight(0), weight(1)], out),
            [] => panic!("a linear kernel without operands"),
        }
        for (i, x) in operands.iter().enumerate().skip(2) {
            isa.add_scaled(x, weight(i), out);
        }
        let divisor = self.divisor as f32;
        if divisor.to_bits() != 1.0_f32.to_bits() {
            isa.run(Divide { divisor, out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::naive;
    use crate::simd::Isa;

    fn map(isa: &'static Isa, linear: &Linear, operands: &[&[f32]], out: &mut [f32]) {
        let tile = Tile { isa, first: 0, row: out.len(), around: [0, 0], operands };
        Direct::map(linear, tile, out);
    }

    /// Values of mixed sign and size, different per operand.
    fn operand(seed: u32, len: usize) -> Vec<f32> {
        let value = |i: u32| {
            let hash = (i ^ seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
            (hash >> 8) as f32 / 65_536.0 - 128.0
        };
        (0..len as u32).map(value).collect()
    }

    #[test]
    fn every_isa_is_within_rounding_of_the_formula() {
        for weights in [vec![0.3, 0.7], vec![1.0], vec![0.5, -1.25, 0.1, 2.0], vec![1.0 / 3.0; 8]] {
            let operands: Vec<_> = (0..weights.len() as u32).map(|i| operand(i, 1_001)).collect();
            let slices: Vec<_> = operands.iter().map(Vec::as_slice).collect();
            let linear = Linear::sum(weights);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; 1_001];
                map(isa, &linear, &slices, &mut out);
                for (i, out) in out.iter().enumerate() {
                    let x: Vec<_> = slices.iter().map(|x| x[i]).collect();
                    let exact = naive::linear(&linear.weights, &x);
                    // Each weight, product and sum is rounded once: 2^-24 of a term's size each.
                    let size: f64 =
                        x.iter().zip(&linear.weights).map(|(x, w)| (f64::from(*x) * w).abs()).sum();
                    let bound = size * (x.len() + 2) as f64 / f64::from(1 << 24);
                    assert!(
                        (f64::from(*out) - exact).abs() <= bound,
                        "{} {i}: {out} {exact}",
                        isa.name()
                    );
                }
            }
        }
    }

    #[test]
    fn products_and_sums_are_rounded_one_by_one_in_order() {
        // x * x is exactly 1 + 2^-11 + 2^-24, a tie that rounds to 1 + 2^-11: a fused
        // multiply-add would keep the 2^-24, another order would not cancel.
        let x = 1.0 + 2.0_f32.powi(-12);
        let linear = Linear::sum(vec![-1.0 - 2.0_f64.powi(-11), x.into()]);
        for isa in Isa::available() {
            let mut out = [f32::NAN; 40];
            map(isa, &linear, &[&[1.0; 40], &[x; 40]], &mut out);
            assert!(out.iter().all(|out| *out == 0.0), "{}: {out:?}", isa.name());
        }
        let linear = Linear::sum(vec![1.0; 3]);
        let mut out = [f32::NAN];
        map(Isa::best(), &linear, &[&[1e30], &[-1e30], &[1.0]], &mut out);
        assert_eq!(out[0].to_bits(), 1.0_f32.to_bits());
    }

    #[test]
    fn the_first_product_is_not_added_to_zero() {
        let linear = Linear::sum(vec![1.0]);
        let mut out = [f32::NAN];
        map(Isa::best(), &linear, &[&[-0.0]], &mut out);
        assert_eq!(out[0].to_bits(), (-0.0_f32).to_bits());
    }

    #[test]
    fn the_plan_spells_weights_and_what_they_are_of() {
        let linear: Linear = serde_json::from_str(r#"{"weights":[0.3,0.7]}"#).expect("a plan's op");
        assert_eq!(linear, Linear::sum(vec![0.3, 0.7]));
        assert!(serde_json::from_str::<Linear>(r#"{"weights":[1],"alpha":1}"#).is_err());
    }
}
