//! The largest singular values of a matrix and their right vectors, in f64.
//!
//! All of them follow from the eigenvalues of `A^T A`, exact to about a millionth of the largest
//! singular value. A few of many are found by subspace iteration from random vectors instead.
//!
//! Source: Halko, Martinsson and Tropp 2011, "Finding structure with randomness", arXiv:0909.4061,
//! algorithm 4.4, with Rayleigh-Ritz values that say when to stop.

use super::eigen::eigen;
use super::engine::Engine;
use super::gemm::{View, add_product, gram, product};
use super::lanes::{Axpy, dot};
use crate::math::noise;

/// Vectors are made orthogonal in blocks of this many.
const BLOCK: usize = 32;
/// Steps of the iteration at most.
const STEPS: usize = 12;
/// The iteration ends when the energy it captured grew by less than this share of the whole.
const CONVERGED: f64 = 1e-7;
/// What is left of a vector that others span: a smaller share of it is rounding.
const NOTHING: f64 = 1e-12;
/// Below this share of the largest a singular value cannot be told from 0: its square is lost in the
/// rounding of `A^T A`.
pub const RESOLVED: f64 = 1e-6;

/// How many are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// So many.
    Rank(usize),
    /// As many as hold this share of the sum of squares.
    Energy(f64),
}

/// Squared singular values, in falling order, and their vectors.
#[derive(Debug)]
pub struct Top {
    /// The squares of the singular values; at least of the wanted ones.
    pub squares: Vec<f64>,
    /// The right vectors of the wanted ones, a row each.
    pub vectors: Vec<f64>,
    /// How many are wanted: rows of `vectors`.
    pub rank: usize,
    /// The sum of all squares.
    pub energy: f64,
}

impl Top {
    /// The share of the sum of squares that the wanted ones hold; 1 if there is nothing to hold.
    pub fn share(&self) -> f64 {
        let held: f64 = self.squares[..self.rank].iter().sum();
        if self.energy > 0.0 { (held / self.energy).min(1.0) } else { 1.0 }
    }
}

/// Whether the iteration finds so many of `n` faster than the decomposition finds all.
pub fn is_few(rank: usize, n: usize) -> bool {
    4 * guarded(rank) <= n
}

/// Vectors that are iterated for this many wanted.
pub fn guarded(rank: usize) -> usize {
    rank + (rank / 8).max(16)
}

/// Finds the wanted ones of `a`, which has no more columns than rows. `None` if stopped, or if
/// values are not finite.
pub fn top(engine: &Engine, a: View<f32>, wanted: Wanted) -> Option<Top> {
    let n = a.shape.1;
    if let Wanted::Rank(rank) = wanted
        && is_few(rank, n)
    {
        return iterate(engine, a, rank);
    }
    let mut found = eigen(engine, gram(engine, a)?, n)?;
    found.values.iter_mut().for_each(|square| *square = square.max(0.0));
    let energy = found.values.iter().sum();
    let rank = match wanted {
        Wanted::Rank(rank) => rank.min(n),
        Wanted::Energy(share) => enough(&found.values, share * energy),
    };
    found.vectors.truncate(rank * n);
    Some(Top { squares: found.values, vectors: found.vectors, rank, energy })
}

/// How many of the first add up to `energy`; one at least, as there is no matrix of rank 0.
pub fn enough(squares: &[f64], energy: f64) -> usize {
    let mut held = 0.0;
    for (i, square) in squares.iter().enumerate() {
        if i > 0 && held >= energy {
            return i;
        }
        held += square;
    }
    squares.len()
}

fn iterate(engine: &Engine, a: View<f32>, rank: usize) -> Option<Top> {
    let (n, count) = (a.shape.1, guarded(rank));
    let mut q = random(engine, count * n)?;
    orthogonal(engine, &mut q, n)?;
    let energy = sum_of_squares(engine, a)?;
    let mut before = 0.0;
    for step in 1.. {
        if engine.stopped() {
            return None;
        }
        let y = product(engine, a, View::new(&q, n).transposed())?;
        let found = eigen(engine, gram(engine, View::new(&y, count))?, count)?;
        let held: f64 = found.values[..rank].iter().sum();
        let turn = View::new(&found.vectors, count);
        if step == STEPS || held - before <= CONVERGED * energy {
            let vectors = product(engine, turn.rows(0..rank), View::new(&q, n))?;
            let squares = engine.collect(found.values.iter().map(|square| square.max(0.0)))?;
            return Some(Top { squares, vectors, rank, energy });
        }
        before = held;
        let z = product(engine, View::new(&y, count).transposed(), a)?;
        // The largest first, so that the others are freed of them and not the other way round.
        q = product(engine, turn, View::new(&z, n))?;
        orthogonal(engine, &mut q, n)?;
    }
    None
}

/// Numbers from -1 to 1, from words of noise.
fn random(engine: &Engine, count: usize) -> Option<Vec<f64>> {
    let mut words = engine.zeros(count)?;
    noise::words(engine.isa, 0, 0, &mut words);
    engine.collect(words.iter().map(|word| f64::from(word.cast_signed()) / 2_147_483_648.0))
}

fn sum_of_squares(engine: &Engine, a: View<f32>) -> Option<f64> {
    let rows = |first: usize| a.rows(first..a.shape.0.min(first + 1));
    let square = |first: usize| {
        Some(product(engine, rows(first), rows(first).transposed())?.iter().sum::<f64>())
    };
    (0..a.shape.0).map(square).sum()
}

/// Makes rows of `n` elements orthonormal, the first first; what the earlier span becomes 0. `None` if
/// stopped or out of memory.
pub fn orthogonal(engine: &Engine, rows: &mut [f64], n: usize) -> Option<()> {
    let count = rows.len() / n.max(1);
    for first in (0..count).step_by(BLOCK) {
        let (before, rest) = rows.split_at_mut(first * n);
        let block = &mut rest[..BLOCK.min(count - first) * n];
        let lengths: Vec<f64> = block.chunks_exact(n).map(|x| dot(engine, x, x).sqrt()).collect();
        for _ in 0..2 {
            let spanned = View::new(before, n);
            let along = product(engine, View::new(block, n), spanned.transposed())?;
            if first > 0 {
                add_product(engine, (View::new(&along, first), spanned, -1.0), block, n)?;
            }
            within(engine, block, n, &lengths);
        }
    }
    Some(())
}

/// Gram and Schmidt within a block of rows, which had `lengths` before anything was taken away.
fn within(engine: &Engine, block: &mut [f64], n: usize, lengths: &[f64]) {
    for (i, length) in lengths.iter().enumerate() {
        let (before, rest) = block.split_at_mut(i * n);
        let row = &mut rest[..n];
        for other in before.chunks_exact(n) {
            let along = dot(engine, row, other);
            engine.run(Axpy { x: other, factor: -along, out: row });
        }
        let left = dot(engine, row, row).sqrt();
        if left > NOTHING * length.min(1.0) && left > 0.0 {
            for x in row.iter_mut() {
                *x /= left;
            }
        } else {
            row.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::gemm::made::product;
    use crate::simd::Isa;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut words = vec![0; count];
        noise::words(Isa::best(), u64::from(seed), 0, &mut words);
        words.iter().map(|word| word.cast_signed() as f32 / 2_147_483_648.0).collect()
    }

    fn power(x: f64, n: usize) -> f64 {
        (0..n).fold(1.0, |power, _| power * x)
    }

    /// A matrix whose singular values fall by a fifth from one to the next.
    fn falling(m: usize, n: usize) -> Vec<f32> {
        let engine = &Engine::best();
        let random = |count: usize| random(engine, count).expect("memory");
        let (mut u, mut v) = (random(n * m), random(2 * n * n)[n * n..].to_vec());
        orthogonal(engine, &mut u, m).expect("an end");
        orthogonal(engine, &mut v, n).expect("an end");
        for (i, row) in v.chunks_exact_mut(n).enumerate() {
            for x in row.iter_mut() {
                *x *= power(0.8, i);
            }
        }
        let a = product(engine, View::new(&u, m).transposed(), View::new(&v, n));
        a.iter().map(|x| *x as f32).collect()
    }

    #[test]
    fn both_ways_find_the_same() {
        let (m, n, rank) = (300, 160, 12);
        let (engine, a) = (&Engine::best(), falling(m, n));
        let a = View::new(&a, n);
        assert!(is_few(rank, n));
        let few = top(engine, a, Wanted::Rank(rank)).expect("finite");
        let all = top(engine, a, Wanted::Energy(1.0)).expect("finite");
        for (i, (few, all)) in few.squares[..rank].iter().zip(&all.squares).enumerate() {
            assert!((few / all - 1.0).abs() < 1e-7, "{i}");
            assert!((all / power(0.64, i) - 1.0).abs() < 1e-5, "{i}");
        }
        let products =
            product(engine, View::new(&few.vectors, n), View::new(&all.vectors, n).transposed());
        for i in 0..rank {
            assert!((products[i * all.rank + i].abs() - 1.0).abs() < 1e-7, "{i}");
        }
        assert!((few.share() - (1.0 - power(0.64, rank))).abs() < 1e-6);
    }

    #[test]
    fn as_many_as_hold_the_energy() {
        assert_eq!(enough(&[4.0, 3.0, 2.0, 1.0], 7.0), 2);
        assert_eq!(enough(&[4.0, 3.0, 2.0, 1.0], 7.1), 3);
        assert_eq!(enough(&[4.0, 3.0], 9.0), 2);
        assert_eq!(enough(&[0.0, 0.0], 0.0), 1);
    }

    #[test]
    fn of_nothing_and_of_one_direction() {
        let (m, n, engine) = (200, 120, &Engine::best());
        let nothing = top(engine, View::new(&vec![0.0; m * n], n), Wanted::Rank(3));
        let nothing = nothing.expect("finite");
        assert_eq!((nothing.share(), nothing.energy), (1.0, 0.0));
        assert!(nothing.vectors.iter().all(|x| x.is_finite()));
        let (u, v) = (values(m, 3), values(n, 4));
        let one: Vec<f32> = (0..m * n).map(|i| u[i / n] * v[i % n]).collect();
        let found = top(engine, View::new(&one, n), Wanted::Rank(3)).expect("finite");
        assert!(found.share() > 1.0 - 1e-12);
        assert!(found.squares[1] < 1e-12 * found.squares[0]);
    }

    #[test]
    fn a_flat_spectrum_is_captured_nearly_as_well_as_can_be() {
        let (m, n, rank) = (400, 300, 40);
        let a = values(m * n, 7);
        let few = top(&Engine::best(), View::new(&a, n), Wanted::Rank(rank)).expect("finite");
        let all = top(&Engine::best(), View::new(&a, n), Wanted::Energy(1.0));
        let best: f64 = all.expect("finite").squares[..rank].iter().sum();
        let held: f64 = few.squares[..rank].iter().sum();
        assert!(held > 0.999 * best, "{}", held / best);
    }
}
