//! Fractional powers of rotations, in f64.
//!
//! An orthogonal `Q` of determinant 1 turns planes by angles `a`. With its symmetric part `C`, whose
//! eigenvalues are `cos a`, and its skew part `K`, which commutes with it,
//! `Q^t = cos(t a)(C) + (sin(t a) / sin a)(C) K`: functions of `C`, which need no plane to be told from
//! another.
//!
//! Close to half a turn that loses digits, and at half a turn the way round is not determined. There,
//! in the directions of `C` below `-1 + 2^-21` alone, `Q^t = (cos(t pi) + sin(t pi) J) exp(-t L)`, where `J`,
//! the polar factor of what `K` is there, is a quarter turn of every plane, and `L = J asin(K / J)` what
//! is missing to half a turn. Where `K` is nothing, directions are paired in the order in which the
//! decomposition found them.

use std::f64::consts::PI;

use super::eigen::eigen;
use super::engine::{Engine, PANEL};
use super::gemm::{View, add_product, product};
use super::lanes::dot;
use super::long::parts;
use super::polar::{newton, symmetric};
use crate::math::trig;

/// Eigenvalues of the symmetric part below -1 and this belong to half a turn, nearly.
const NEARLY: f64 = 1.0 / 2_097_152.0;
/// How much `J` is made of pairs, beside what `K` says.
const PAIRED: f64 = 1e-13;

/// Powers of an orthogonal matrix `q` of `n` rows, which has no reflection.
///
/// # Errors
/// `None` if stopped, or if there was no end; a sentence if half of all directions or more are turned
/// by half a turn.
pub fn powers(
    engine: &Engine,
    mut q: Vec<f64>,
    n: usize,
    each: &[f64],
) -> Option<Result<Vec<Vec<f64>>, String>> {
    let mut c = engine.copy(&q)?;
    symmetric(&mut c, n, 1.0);
    symmetric(&mut q, n, -1.0);
    let found = eigen(engine, c, n)?;
    let mut plain = found.values.iter().take_while(|value| **value > NEARLY - 1.0).count();
    if (n - plain) % 2 == 1 {
        plain = (plain + 1).min(n); // planes have two directions
    }
    if n - plain > n / 2 {
        let round = n - plain;
        return Some(Err(format!(
            "{round} of {n} directions are turned by half a turn, expected less than half of them: \
             there is no way to a part of it"
        )));
    }
    let out = each.iter().map(|_| engine.zeros(n * n));
    let mut out = out.collect::<Option<Vec<Vec<f64>>>>()?;
    let (vectors, skew) = (View::new(&found.vectors, n), View::new(&q, n));
    for rows in parts(0..plain, PANEL) {
        let these = vectors.rows(rows.clone());
        let along = product(engine, these, skew)?;
        for (out, t) in out.iter_mut().zip(each) {
            let mut made = engine.copy(&along)?;
            for (i, row) in rows.clone().zip(made.chunks_exact_mut(n)) {
                let (still, turned) = parts_of(found.values[i], *t);
                let from = &found.vectors[i * n..][..n];
                row.iter_mut().zip(from).for_each(|(x, v)| *x = turned * *x + still * v);
            }
            add_product(engine, (these.transposed(), View::new(&made, n), 1.0), out, n)?;
        }
        if engine.stopped() {
            return None;
        }
    }
    if plain < n {
        let round = vectors.rows(plain..n);
        let halves = Halves::new(engine, round, skew)?;
        for (out, t) in out.iter_mut().zip(each) {
            let power = halves.power(engine, *t)?;
            let made = product(engine, View::new(&power, n - plain), round)?;
            add_product(engine, (round.transposed(), View::new(&made, n), 1.0), out, n)?;
        }
    }
    (!engine.stopped()).then_some(Ok(out))
}

/// `cos(t a)` and `sin(t a) / sin a` of the angle whose cosine is given.
fn parts_of(cosine: f64, t: f64) -> (f64, f64) {
    let cosine = cosine.clamp(-1.0, 1.0);
    let sine = ((1.0 - cosine) * (1.0 + cosine)).sqrt();
    let sharp = trig::angle(sine, cosine.abs());
    let angle = if cosine < 0.0 { PI - sharp } else { sharp };
    let turned = if sine == 0.0 { t } else { trig::sin(t * angle) / sine };
    (trig::cos(t * angle), turned)
}

/// What turns by half a turn, nearly: in a basis of its own.
struct Halves {
    n: usize,
    /// A quarter turn.
    quarter: Vec<f64>,
    /// What is missing to half a turn.
    missing: Vec<f64>,
}

impl Halves {
    fn new(engine: &Engine, basis: View<f64>, skew: View<f64>) -> Option<Self> {
        let n = basis.shape.0;
        let along = product(engine, basis, skew)?;
        let mut k = product(engine, View::new(&along, skew.shape.0), basis.transposed())?;
        drop(along);
        symmetric(&mut k, n, -1.0);
        let norm = dot(engine, &k, &k).sqrt();
        let unit = if norm > 0.0 { norm } else { 1.0 };
        let mut quarter = engine.collect(k.iter().map(|x| x / unit))?;
        for i in (0..n - n % 2).step_by(2) {
            quarter[i * n + i + 1] -= PAIRED;
            quarter[(i + 1) * n + i] += PAIRED;
        }
        let mut quarter = newton(engine, quarter, n)?.0;
        symmetric(&mut quarter, n, -1.0);
        // J asin(S) with K = J S: K - K^3 / 6 + 3 K^5 / 40.
        let square = product(engine, View::new(&k, n), View::new(&k, n))?;
        let mut series = engine.copy(&square)?;
        for x in &mut series {
            *x *= 3.0 / 40.0;
        }
        series.iter_mut().step_by(n + 1).for_each(|x| *x -= 1.0 / 6.0);
        let series = product(engine, View::new(&square, n), View::new(&series, n))?;
        drop(square);
        let mut missing = engine.copy(&k)?;
        add_product(engine, (View::new(&k, n), View::new(&series, n), 1.0), &mut missing, n)?;
        Some(Self { n, quarter, missing })
    }

    fn power(&self, engine: &Engine, t: f64) -> Option<Vec<f64>> {
        let n = self.n;
        let one = |a: &mut Vec<f64>| a.iter_mut().step_by(n + 1).for_each(|x| *x += 1.0);
        // exp(X) = 1 + X (1 + X / 2 (1 + X / 3 (1 + X / 4))), with an X below 2^-9.
        let mut back = engine.zeros(n * n)?;
        one(&mut back);
        for term in [4.0, 3.0, 2.0, 1.0] {
            let mut next = engine.zeros(n * n)?;
            one(&mut next);
            let factors = (View::new(&self.missing, n), View::new(&back, n), -t / term);
            add_product(engine, factors, &mut next, n)?;
            back = next;
        }
        let (still, turned) = (trig::cos(t * PI), trig::sin(t * PI));
        let mut half = engine.collect(self.quarter.iter().map(|x| turned * x))?;
        half.iter_mut().step_by(n + 1).for_each(|x| *x += still);
        product(engine, View::new(&half, n), View::new(&back, n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::polar::tests::{apart, basis, one};
    use super::*;
    use crate::linalg::gemm::made::{gram, product};

    /// Turns of planes by these angles times `t`, in a basis.
    fn turned(angles: &[f64], t: f64) -> Vec<f64> {
        let n = 2 * angles.len();
        let mut planes = vec![0.0; n * n];
        for (i, angle) in angles.iter().enumerate() {
            let (s, c) = (t * angle).sin_cos();
            for (row, column, x) in [(0, 0, c), (0, 1, -s), (1, 0, s), (1, 1, c)] {
                planes[(2 * i + row) * n + 2 * i + column] = x;
            }
        }
        let (engine, u) = (&Engine::best(), basis(n, 5));
        let right = product(engine, View::new(&planes, n), View::new(&u, n));
        product(engine, View::new(&u, n).transposed(), View::new(&right, n))
    }

    fn check(angles: &[f64], t: f64, error: f64) {
        let (engine, n) = (&Engine::best(), 2 * angles.len());
        let found = powers(engine, turned(angles, 1.0), n, &[t, t - 1.0]).expect("an end");
        let found = found.expect("a way");
        for (got, t) in found.iter().zip([t, t - 1.0]) {
            let want = turned(angles, t);
            assert!(apart(got, &want) < error, "{angles:?} {t}: {}", apart(got, &want));
            assert!(apart(&gram(engine, View::new(got, n)), &one(n)) < error);
        }
    }

    #[test]
    fn planes_turn_a_part_of_the_way() {
        for t in [0.25, 0.5, 0.9] {
            check(&[0.1, 0.1, 0.5, 2.0, -3.0, 0.0, 1e-9, 1.5], t, 1e-13);
            check(&[3.1, -3.13, 1.0, 1.0, 0.2], t, 1e-11);
            // Where the two ways of computing meet, both must be right.
            for rest in [1e-2, 1.1e-3, 0.9e-3, 1e-5] {
                check(&[PI - rest, rest - PI, 1.0, 2.0, 0.3], t, 1e-8);
            }
            // What is left of a turn by half, beside rounding.
            check(&[PI - 1e-8, 1.0, 2.0], t, 1e-7);
        }
    }

    #[test]
    fn half_a_turn_goes_either_way_round() {
        let (engine, n) = (&Engine::best(), 6);
        let mut q = one(n);
        (q[0], q[n + 1]) = (-1.0, -1.0);
        let found = powers(engine, q, n, &[0.5]).expect("an end").expect("a way");
        let mut want = one(n);
        (want[0], want[n + 1], want[1], want[n]) = (0.0, 0.0, 1.0, -1.0);
        if found[0][1] < 0.0 {
            (want[1], want[n]) = (-1.0, 1.0);
        }
        assert!(apart(&found[0], &want) < 1e-12);
        let mut round = one(n);
        for x in &mut round {
            *x = -*x;
        }
        let refused = powers(engine, round, n, &[0.5]).expect("an end").expect_err("no way");
        assert!(refused.starts_with("6 of 6 directions are turned by half a turn"));
    }
}
