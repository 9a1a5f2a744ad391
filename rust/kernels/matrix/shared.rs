//! Differences in the left singular vectors that all of them share, voted on there.
//!
//! Source: Stoica et al. 2024, "Model merging with SVD to tie the `KnOTS`", arXiv:2410.19735.

use serde::Deserialize;

use super::differences::Matrix;
use super::make::{Bytes, Made, Make, Outcome, square};
use super::operands::{Operands, SLAB, slabs};
use crate::kernels::delta::{
    Consensus, Delta, Even, Everything, Held, Known, Magnitude, Normalize,
};
use crate::kernels::kernel::Kernel;
use crate::kernels::tile::Tile;
use crate::linalg::common::{Common, common};
use crate::linalg::eigen::{Eigen, eigen};
use crate::linalg::engine::{Engine, PANEL};
use crate::linalg::gemm::{View, add_lower, add_product, product};
use crate::linalg::long::parts;
use crate::linalg::residual::Product;
use crate::linalg::spectrum::RESOLVED;

/// What decides between models, as in [`Delta`].
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// What the sum is divided by.
    normalize: Normalize,
    /// Which models take part in an element.
    consensus: Consensus,
    /// What is left.
    sparsify: Left,
}

/// What is left of shared directions.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Left {
    /// Everything.
    None(Everything),
    /// The largest.
    Magnitude(Magnitude),
}

impl Vote {
    fn delta<S>(&self, weights: &[f64], sparsify: &S) -> Delta<S>
    where
        S: Clone,
    {
        Delta {
            weights: weights.to_vec(),
            lambda: 1.0,
            normalize: self.normalize,
            consensus: self.consensus,
            even: Even::Positive,
            sparsify: sparsify.clone(),
        }
    }

    /// Whether the arguments are usable with these weights; else what is wrong.
    ///
    /// # Errors
    /// A sentence without the place.
    pub fn check_with(&self, weights: &[f64]) -> Result<(), String> {
        let operands = weights.len() + 1;
        match &self.sparsify {
            Left::None(all) => self.delta(weights, all).check(operands),
            Left::Magnitude(largest) => self.delta(weights, largest).check(operands),
        }
    }

    /// `U vote(Z_1, ..., Z_T)` of products of these ranks whose factors stand beside each other, with
    /// `[P_1 | ... | P_T] = U [Z_1 | ... | Z_T]`; as [`share`] votes, but that the largest element of
    /// every left vector is positive whatever the shape. `None` if stopped, or if values are not finite.
    pub fn of_products(
        &self,
        engine: &Engine,
        weights: &[f64],
        (beside, ranks): (&Product, &[usize]),
    ) -> Option<Product> {
        let Common { basis, turn, count } = common(engine, beside, ranks)?;
        if count == 0 {
            return Some(Product { up: Vec::new(), down: Vec::new(), rank: 0 });
        }
        let columns = beside.down.len() / beside.rank;
        let (mut first, mut blocks) = (0, Vec::with_capacity(ranks.len()));
        for own in ranks {
            let down = View::new(&beside.down[first * columns..], columns).rows(0..*own);
            let turn = View::within(&turn[first..], (count, *own), beside.rank);
            let made = product(engine, turn, down)?;
            let mut block: Vec<f32> = engine.zeros(made.len())?;
            round(&made, &mut block);
            blocks.push(block);
            first += own;
        }
        let down = match &self.sparsify {
            Left::None(all) => vectors(engine, &blocks, &self.delta(weights, all)),
            Left::Magnitude(most) => vectors(engine, &blocks, &self.delta(weights, most)),
        }?;
        Some(Product { up: basis, down, rank: count })
    }
}

/// Bytes that the vote on products of this rank together takes at most, beside their factors.
pub fn bytes((rows, columns): (u64, u64), models: usize, rank: u64) -> u64 {
    // Blocks, one of them in f64 and a copy that is thinned out, and the vote.
    let blocks = 4 * (models as u64 + 5) * rank * columns;
    blocks + 4 * rows * 2 * rank + 8 * 8 * rank * rank
}

impl Make for Vote {
    fn check(&self, of: &Matrix<()>) -> Result<(), String> {
        if of.apart {
            return Err("a vote of shared directions, expected no base apart".to_owned());
        }
        self.check_with(&of.weights)
    }

    fn matrices(&self, models: usize) -> usize {
        models
    }

    fn gather(&self, of: &Matrix<()>, tile: Tile, index: usize, out: &mut [f32]) {
        of.one(tile, index, 1.0, out); // weights come later
    }

    fn solve(&self, of: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made> {
        let made = match &self.sparsify {
            Left::None(all) => share(engine, operands, &self.delta(&of.weights, all)),
            Left::Magnitude(largest) => share(engine, operands, &self.delta(&of.weights, largest)),
        };
        made.map(Ok)
    }

    fn vectors(&self, of: &Matrix<()>, engine: &Engine, all: Vec<Vec<f32>>) -> Option<Made> {
        let values = match &self.sparsify {
            Left::None(every) => vectors(engine, &all, &self.delta(&of.weights, every)),
            Left::Magnitude(largest) => vectors(engine, &all, &self.delta(&of.weights, largest)),
        };
        Some(Made { values: values?, note: "vectors: voted on as they are".to_owned() })
    }

    fn bytes(&self, models: usize, rows: u64, columns: u64) -> Bytes {
        let models = models as u64;
        let beside = models * columns;
        if rows <= beside {
            let thins = matches!(self.sparsify, Left::Magnitude(_));
            let held = if thins { 4 * rows * columns } else { 0 };
            let parts = (24 + 4 * models) * rows * SLAB as u64;
            return Bytes { solved: square(rows) + held, made: square(rows), parts };
        }
        let turn = 8 * beside * columns;
        let parts = (4 * beside + 12 * columns) * SLAB as u64;
        Bytes { solved: square(beside) + turn, made: turn, parts }
    }

    /// The votes on vectors are of copies.
    fn copies(&self) -> u64 {
        2
    }
}

/// `U vote(S V_1^T, ..., S V_T^T)`, with `[D_1 | ... | D_T] = U S [V_1 | ... | V_T]^T`: the matrices
/// side by side, along the rows. `None` if stopped.
///
/// Whichever is shorter is decomposed, `U` or `V`: the other follows from the matrices, which are read
/// again and again and never held. Directions below [`RESOLVED`] are left out.
fn share<S: Held>(engine: &Engine, operands: &mut Operands, vote: &Delta<S>) -> Option<Made> {
    let all = operands.count * operands.columns;
    if operands.rows <= all {
        let found = basis(engine, left_gram(engine, operands)?, operands.rows)?;
        from_left(engine, operands, vote, &found)
    } else {
        let found = basis(engine, right_gram(engine, operands)?, all)?;
        from_right(engine, operands, vote, found)
    }
}

/// `sum_t D_t D_t^T`.
fn left_gram(engine: &Engine, operands: &mut Operands) -> Option<Vec<f64>> {
    let m = operands.rows;
    let mut out = engine.zeros(m * m)?;
    for columns in slabs(operands.columns) {
        for index in 0..operands.count {
            let piece = operands.piece(index, 0..m, columns.clone())?;
            let piece = View::new(&piece, columns.len());
            add_lower(engine, (piece, piece.transposed(), 1.0), &mut out, m)?;
        }
    }
    Some(out)
}

/// `[D_1 | ... | D_T]^T [D_1 | ... | D_T]`.
fn right_gram(engine: &Engine, operands: &mut Operands) -> Option<Vec<f64>> {
    let n = operands.count * operands.columns;
    let mut out = engine.zeros(n * n)?;
    for rows in slabs(operands.rows) {
        let beside = side_by_side(engine, operands, rows)?;
        let beside = View::new(&beside, n);
        add_lower(engine, (beside.transposed(), beside, 1.0), &mut out, n)?;
    }
    Some(out)
}

/// Rows of all matrices, those of the first first.
fn side_by_side(
    engine: &Engine,
    operands: &mut Operands,
    rows: std::ops::Range<usize>,
) -> Option<Vec<f32>> {
    let (n, all) = (operands.columns, operands.count * operands.columns);
    let mut out: Vec<f32> = engine.zeros(rows.len() * all)?;
    for index in 0..operands.count {
        let piece = operands.piece(index, rows.clone(), 0..n)?;
        for (to, from) in out.chunks_exact_mut(all).zip(piece.chunks_exact(n)) {
            to[index * n..][..n].copy_from_slice(from);
        }
    }
    Some(out)
}

/// The vectors that have a strength, the largest element of each (the first of equals) positive.
fn basis(engine: &Engine, gram: Vec<f64>, n: usize) -> Option<Eigen> {
    let mut found = eigen(engine, gram, n)?;
    let least = RESOLVED * RESOLVED * found.values[0];
    found.values.retain(|square| *square > least);
    found.vectors.truncate(found.values.len() * n);
    for row in found.vectors.chunks_exact_mut(n) {
        let largest =
            row.iter().fold(0.0_f64, |most, x| if x.abs() > most.abs() { *x } else { most });
        if largest < 0.0 {
            for x in row.iter_mut() {
                *x = -*x;
            }
        }
    }
    Some(found)
}

fn from_left<S: Held>(
    engine: &Engine,
    operands: &mut Operands,
    vote: &Delta<S>,
    found: &Eigen,
) -> Option<Made> {
    let (m, n, rank) = (operands.rows, operands.columns, found.values.len());
    if rank == 0 {
        let values = operands.empty()?.values;
        return Some(Made { values, note: "no difference".to_owned() });
    }
    let basis = View::new(&found.vectors, m);
    let learned = vote.hold((engine.isa, engine.stop), rank * n, |index| {
        let mut all: Vec<f32> = engine.zeros(rank * n)?;
        for columns in slabs(n) {
            let piece = operands.piece(index, 0..m, columns.clone())?;
            let made = product(engine, basis, View::new(&piece, columns.len()))?;
            for (to, from) in all.chunks_exact_mut(n).zip(made.chunks_exact(columns.len())) {
                round(from, &mut to[columns.clone()]);
            }
        }
        (!engine.stopped()).then_some(all)
    })?;
    let mut out = operands.empty()?.values;
    for columns in slabs(n) {
        let width = columns.len();
        let mut blocks = Vec::new();
        for index in 0..operands.count {
            let piece = operands.piece(index, 0..m, columns.clone())?;
            let made = product(engine, basis, View::new(&piece, width))?;
            let mut block: Vec<f32> = engine.zeros(made.len())?;
            round(&made, &mut block);
            blocks.push(block);
        }
        let mut merged: Vec<f32> = engine.zeros(rank * width)?;
        for (i, merged) in merged.chunks_exact_mut(width).enumerate() {
            let rows: Vec<&[f32]> =
                blocks.iter().map(|block| &block[i * width..][..width]).collect();
            mix(engine, (vote, &learned), (i * n + columns.start, &rows), merged)?;
        }
        drop(blocks);
        let made = product(engine, basis.transposed(), View::new(&merged, width))?;
        if engine.stopped() {
            return None;
        }
        for (to, from) in out.chunks_exact_mut(n).zip(made.chunks_exact(width)) {
            round(from, &mut to[columns.clone()]);
        }
    }
    Some(Made { values: out, note: note(rank, m) })
}

/// `U = [D_1 | ... | D_T] V S^-1`, so that what is made is `[D_1 | ... | D_T]` times a matrix of `n`
/// columns.
fn from_right<S: Held>(
    engine: &Engine,
    operands: &mut Operands,
    vote: &Delta<S>,
    found: Eigen,
) -> Option<Made> {
    let (n, all, rank) = (operands.columns, operands.count * operands.columns, found.values.len());
    if rank == 0 {
        let values = operands.empty()?.values;
        return Some(Made { values, note: "no difference".to_owned() });
    }
    let strengths = engine.collect(found.values.iter().map(|square| square.sqrt()))?;
    let block = |i: usize, index: usize, out: &mut [f32]| {
        let row = &found.vectors[i * all + index * n..][..n];
        out.iter_mut().zip(row).for_each(|(out, x)| *out = (strengths[i] * x) as f32);
    };
    let learned = vote.hold((engine.isa, engine.stop), rank * n, |index| {
        let mut made: Vec<f32> = engine.zeros(rank * n)?;
        for (i, out) in made.chunks_exact_mut(n).enumerate() {
            block(i, index, out);
        }
        (!engine.stopped()).then_some(made)
    })?;
    let mut turn = engine.zeros(all * n)?;
    let blocks = (0..operands.count).map(|_| engine.zeros(n));
    let mut blocks = blocks.collect::<Option<Vec<Vec<f32>>>>()?;
    let mut merged: Vec<f32> = engine.zeros(n)?;
    for panel in parts(0..rank, PANEL) {
        let mut scaled: Vec<f64> = engine.zeros(panel.len() * n)?;
        for (i, out) in panel.clone().zip(scaled.chunks_exact_mut(n)) {
            for (index, out) in blocks.iter_mut().enumerate() {
                block(i, index, out);
            }
            let rows: Vec<&[f32]> = blocks.iter().map(Vec::as_slice).collect();
            mix(engine, (vote, &learned), (i * n, &rows), &mut merged)?;
            out.iter_mut().zip(&merged).for_each(|(out, x)| *out = f64::from(*x) / strengths[i]);
        }
        let vectors = View::new(&found.vectors, all).rows(panel).transposed();
        add_product(engine, (vectors, View::new(&scaled, n), 1.0), &mut turn, n)?;
    }
    drop(found);
    let mut out = operands.empty()?.values;
    for rows in slabs(operands.rows) {
        let beside = side_by_side(engine, operands, rows.clone())?;
        let made = product(engine, View::new(&beside, all), View::new(&turn, n))?;
        if engine.stopped() {
            return None;
        }
        round(&made, &mut out[rows.start * n..rows.end * n]);
    }
    Some(Made { values: out, note: note(rank, all) })
}

/// The vote on elements from `first` on of every block.
fn mix<S: Held>(
    engine: &Engine,
    (vote, learned): (&Delta<S>, &Known<S::Learned>),
    (first, blocks): (usize, &[&[f32]]),
    out: &mut [f32],
) -> Option<()> {
    let nothing = engine.zeros(out.len())?;
    let mut operands = vec![&nothing[..]];
    operands.extend_from_slice(blocks);
    let (first, row) = (first as u64, out.len());
    let tile = Tile { isa: engine.isa, first, row, around: [0; 2], operands: &operands };
    vote.map(tile, learned, out);
    Some(())
}

/// The vote on vectors, as they are.
fn vectors<S: Held>(engine: &Engine, all: &[Vec<f32>], vote: &Delta<S>) -> Option<Vec<f32>> {
    let elements = all.first().map_or(0, Vec::len);
    let learned =
        vote.hold((engine.isa, engine.stop), elements, |index| engine.copy(&all[index]))?;
    let mut out = engine.zeros(elements)?;
    let rows: Vec<&[f32]> = all.iter().map(Vec::as_slice).collect();
    mix(engine, (vote, &learned), (0, &rows), &mut out)?;
    Some(out)
}

fn round(from: &[f64], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
}

fn note(rank: usize, most: usize) -> String {
    if rank < most { "directions of no strength left out".to_owned() } else { String::new() }
}
