//! What the singular values and vectors make of the sum of all differences.

use serde::Deserialize;

use super::differences::Matrix;
use super::make::{Bytes, Made, Make, Outcome, mean, square};
use super::operands::Operands;
use crate::kernels::tile::Tile;
use crate::linalg::engine::Engine;
use crate::linalg::gemm::{View, gram, product};
use crate::linalg::long::Long;
use crate::linalg::spectrum::{self, RESOLVED, Top, Wanted, top};

/// The strongest directions, so many.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Rank(pub usize);

/// The strongest directions, as many as hold this share of the sum of squares.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Energy(pub f64);

/// All directions at one strength.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Isotropic {}

impl Make for Rank {
    fn check(&self, _: &Matrix<()>) -> Result<(), String> {
        if self.0 == 0 { Err("rank 0, expected at least 1".to_owned()) } else { Ok(()) }
    }

    fn matrices(&self, _: usize) -> usize {
        1
    }

    fn gather(&self, of: &Matrix<()>, tile: Tile, _: usize, out: &mut [f32]) {
        of.sum(tile, out);
    }

    fn solve(&self, _: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made> {
        strongest(engine, operands, Wanted::Rank(self.0))
    }

    fn vectors(&self, _: &Matrix<()>, _: &Engine, all: Vec<Vec<f32>>) -> Option<Made> {
        as_it_is(all)
    }

    fn bytes(&self, _: usize, rows: u64, columns: u64) -> Bytes {
        let solved = held(rows, columns) + vectors_of(self.0, rows, columns);
        Bytes { solved, made: 0, parts: 0 }
    }
}

impl Make for Energy {
    fn check(&self, _: &Matrix<()>) -> Result<(), String> {
        if self.0 > 0.0 && self.0 <= 1.0 {
            return Ok(());
        }
        Err(format!("energy {}, expected above 0 and at most 1", self.0))
    }

    fn matrices(&self, _: usize) -> usize {
        1
    }

    fn gather(&self, of: &Matrix<()>, tile: Tile, _: usize, out: &mut [f32]) {
        of.sum(tile, out);
    }

    fn solve(&self, _: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made> {
        strongest(engine, operands, Wanted::Energy(self.0))
    }

    fn vectors(&self, _: &Matrix<()>, _: &Engine, all: Vec<Vec<f32>>) -> Option<Made> {
        as_it_is(all)
    }

    fn bytes(&self, _: usize, rows: u64, columns: u64) -> Bytes {
        let solved = held(rows, columns) + square(rows.min(columns));
        Bytes { solved, made: 0, parts: 0 }
    }
}

impl Make for Isotropic {
    fn check(&self, _: &Matrix<()>) -> Result<(), String> {
        Ok(())
    }

    fn matrices(&self, _: usize) -> usize {
        1
    }

    fn gather(&self, of: &Matrix<()>, tile: Tile, _: usize, out: &mut [f32]) {
        of.sum(tile, out);
    }

    fn solve(&self, _: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made> {
        let mut all = operands.only()?;
        let found = top(engine, all.view(), Wanted::Energy(1.0))?;
        let note = flatten(&mut all, engine, found)?;
        Some(Ok(Made { values: all.values, note }))
    }

    fn vectors(&self, of: &Matrix<()>, _: &Engine, all: Vec<Vec<f32>>) -> Option<Made> {
        mean(of, all)
    }

    fn bytes(&self, _: usize, rows: u64, columns: u64) -> Bytes {
        let solved = held(rows, columns) + 2 * square(rows.min(columns));
        Bytes { solved, made: 0, parts: 0 }
    }
}

fn strongest(engine: &Engine, operands: &mut Operands, wanted: Wanted) -> Outcome<Made> {
    let mut all = operands.only()?;
    let found = top(engine, all.view(), wanted)?;
    let note = project(&mut all, engine, &found)?;
    Some(Ok(Made { values: all.values, note }))
}

/// A vector has rank 1.
fn as_it_is(all: Vec<Vec<f32>>) -> Option<Made> {
    Some(Made { values: all.into_iter().next()?, note: String::new() })
}

/// Bytes of the matrix, in f32.
fn held(rows: u64, columns: u64) -> u64 {
    rows.saturating_mul(columns).saturating_mul(4)
}

/// Bytes that are held to find so many directions.
pub fn vectors_of(rank: usize, rows: u64, columns: u64) -> u64 {
    let (short, long) = (rows.min(columns), rows.max(columns));
    if spectrum::is_few(rank, short as usize) {
        8 * spectrum::guarded(rank) as u64 * (long + 3 * short)
    } else {
        square(short)
    }
}

/// Keeps what lies along the vectors found.
fn project(all: &mut Long, engine: &Engine, found: &Top) -> Option<String> {
    let short = all.short();
    let vectors = View::new(&found.vectors, short);
    all.each_panel(engine, |panel| {
        let along = product(engine, panel, vectors.transposed())?;
        product(engine, View::new(&along, found.rank), vectors)
    })?;
    let share = 100.0 * found.share();
    Some(format!("rank {} keeps {share:.0} % of the difference", found.rank))
}

/// Gives all directions the mean of the singular values.
fn flatten(all: &mut Long, engine: &Engine, mut found: Top) -> Option<String> {
    let short = all.short();
    let values = engine.collect(found.squares.iter().map(|square| square.sqrt()))?;
    let mean = values.iter().sum::<f64>() / short as f64;
    let resolved = values.iter().filter(|s| **s > RESOLVED * values[0]).count();
    found.vectors.truncate(resolved * short);
    for (row, s) in found.vectors.chunks_exact_mut(short).zip(&values) {
        let factor = (mean / s).sqrt();
        for x in row.iter_mut() {
            *x *= factor;
        }
    }
    let turn = gram(engine, View::new(&found.vectors, short))?;
    drop(found);
    all.each_panel(engine, |panel| product(engine, panel, View::new(&turn, short)))?;
    Some(match short - resolved {
        0 => String::new(),
        _ if resolved == 0 => "no difference".to_owned(),
        _ => "directions of no strength left out".to_owned(),
    })
}
