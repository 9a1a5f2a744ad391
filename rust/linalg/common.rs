//! The directions that products of thin matrices share, side by side along the rows.
//!
//! With all `up` side by side as `U`, and `D` the block-diagonal matrix of all `down`, the products side by
//! side are `U D`. Their left singular vectors are those of `U` times a small matrix, which follows from
//! Gram matrices: nothing is multiplied out.

use super::eigen::eigen;
use super::engine::Engine;
use super::factors::gram_of;
use super::gemm::{View, product};
use super::recompress::{roots, scale_rows, times};
use super::residual::Product;
use super::spectrum::RESOLVED;

/// `[P_1 | ... | P_T] = basis [turn_1 down_1 | ... | turn_T down_T]`.
#[derive(Debug)]
pub struct Common {
    /// Left singular vectors, the strongest first: (rows, count).
    pub basis: Vec<f32>,
    /// For all `down` below each other what each row counts in each direction: (count, rank).
    pub turn: Vec<f64>,
    /// How many directions there are whose strength is above [`RESOLVED`] of the largest.
    pub count: usize,
}

/// The directions of products whose factors stand beside each other, of these ranks; the largest element of
/// every vector (the first of equals) is positive. `None` if stopped, or if values are not finite.
pub fn common(engine: &Engine, beside: &Product, ranks: &[usize]) -> Option<Common> {
    let rank = beside.rank;
    let up = View::new(&beside.up, rank);
    let basis = eigen(engine, gram_of(engine, up)?, rank)?;
    let lengths = roots(&basis.values);
    let mut root = basis.vectors.clone();
    scale_rows(&mut root, &lengths);
    let root = View::new(&root, rank);
    let inner = blocks(engine, beside, ranks)?;
    let half = product(engine, root, View::new(&inner, rank))?;
    let core = product(engine, View::new(&half, rank), root.transposed())?;
    let core = eigen(engine, core, rank)?;
    let least = RESOLVED * RESOLVED * core.values.first().copied().unwrap_or(0.0);
    let count = core.values.iter().filter(|square| **square > least.max(0.0)).count();
    let turn = View::new(&core.vectors, rank).rows(0..count);
    let mut inverse = basis.vectors;
    let over = |x: &f64| if *x > 0.0 { 1.0 / x } else { 0.0 };
    scale_rows(&mut inverse, &lengths.iter().map(over).collect::<Vec<_>>());
    let to_left = product(engine, turn, View::new(&inverse, rank))?;
    let mut basis = times(engine, up, &to_left, count);
    let mut turn = product(engine, turn, root)?;
    for (i, row) in turn.chunks_exact_mut(rank).enumerate() {
        let column = basis.iter().skip(i).step_by(count);
        let largest = column.fold(0.0_f32, |most, x| if x.abs() > most.abs() { *x } else { most });
        if largest < 0.0 {
            for x in row.iter_mut() {
                *x = -*x;
            }
            basis.iter_mut().skip(i).step_by(count).for_each(|x| *x = -*x);
        }
    }
    Some(Common { basis, turn, count })
}

/// `D D^T`: a block for each product.
fn blocks(
    engine: &Engine,
    Product { down, rank, .. }: &Product,
    ranks: &[usize],
) -> Option<Vec<f64>> {
    let columns = down.len() / rank.max(&1);
    let mut inner: Vec<f64> = engine.zeros(rank * rank)?;
    let mut first = 0;
    for own in ranks {
        let rows = View::new(&down[first * columns..], columns).rows(0..*own);
        let made = product(engine, rows, rows.transposed())?;
        for (i, row) in made.chunks_exact(*own).enumerate() {
            inner[(first + i) * rank + first..][..*own].copy_from_slice(row);
        }
        first += own;
    }
    Some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::gemm::made;
    use crate::math::noise;

    fn numbers(engine: &Engine, count: usize, key: u64) -> Vec<f32> {
        let mut words = vec![0; count];
        noise::words(engine.isa, key, 0, &mut words);
        words.into_iter().map(|word| word.cast_signed() as f32 / 2_147_483_648.0).collect()
    }

    #[test]
    fn in_the_directions_all_products_are_what_they_were() {
        let (engine, m, n, ranks) = (&Engine::best(), 70, 40, [3, 5, 2]);
        let rank = ranks.iter().sum();
        let (up, down) = (numbers(engine, m * rank, 1), numbers(engine, n * rank, 2));
        let beside = Product { up, down, rank };
        let found = common(engine, &beside, &ranks).expect("finite");
        assert_eq!(found.count, rank);
        let basis = View::new(&found.basis, rank);
        for (at, x) in made::product(engine, basis.transposed(), basis).iter().enumerate() {
            let want = f64::from(u8::from(at / rank == at % rank));
            assert!((x - want).abs() < 1e-6, "{x}");
        }
        // basis turn = up: every product is as it was.
        let again = made::product(engine, basis, View::new(&found.turn, rank));
        let apart = again.iter().zip(&beside.up).map(|(x, y)| (x - f64::from(*y)).abs());
        assert!(apart.fold(0.0, f64::max) < 1e-5);
        let largest = |i: usize| {
            (0..m)
                .map(|row| basis.raw(row, i))
                .fold(0.0_f32, |most, x| if x.abs() > most.abs() { x } else { most })
        };
        assert!((0..rank).all(|i| largest(i) > 0.0));
    }

    #[test]
    fn equal_products_share_their_directions_and_zero_has_none() {
        let (engine, m, n) = (&Engine::best(), 30, 20);
        let (up, down) = (numbers(engine, m * 2, 1), numbers(engine, n * 2, 2));
        let beside: Vec<f32> = up.chunks_exact(2).flat_map(|row| [row, row].concat()).collect();
        let twice = Product { up: beside, down: [&down[..], &down].concat(), rank: 4 };
        assert_eq!(common(engine, &twice, &[2, 2]).expect("finite").count, 2);
        let zero = Product { up: vec![0.0; m * 2], down, rank: 2 };
        assert_eq!(common(engine, &zero, &[1, 1]).expect("finite").count, 0);
    }
}
