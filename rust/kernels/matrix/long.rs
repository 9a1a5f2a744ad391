//! A matrix that is held in f32, and what its singular vectors make of it.

use std::ops::Range;

use super::gemm::{View, gram, product};
use super::spectrum::{RESOLVED, Top};
use super::{Engine, PANEL};

/// A matrix, or some of it, as its long side sees it: rows, or else columns.
pub(super) struct Long {
    /// Its elements, row by row.
    pub values: Vec<f32>,
    /// How many rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// Whether the long side sees columns.
    pub wide: bool,
}

impl Long {
    /// Rows of `columns` elements: a whole matrix.
    pub fn new(values: Vec<f32>, rows: usize, columns: usize) -> Self {
        Self { values, rows, columns, wide: rows < columns }
    }

    /// How many rows the long side sees.
    pub fn long(&self) -> usize {
        if self.wide { self.columns } else { self.rows }
    }

    /// How long they are.
    pub fn short(&self) -> usize {
        if self.wide { self.rows } else { self.columns }
    }

    /// The rows.
    pub fn view(&self) -> View<'_, f32> {
        let view = View::new(&self.values, self.columns);
        if self.wide { view.transposed() } else { view }
    }

    /// Keeps what lies along the vectors found.
    pub fn project(&mut self, engine: &Engine, found: &Top) -> String {
        let short = self.short();
        let vectors = View::new(&found.vectors, short);
        self.each_panel(engine, |panel| {
            let along = product(engine, panel, vectors.transposed());
            product(engine, View::new(&along, found.rank), vectors)
        });
        format!("rank {} keeps {:.0} % of the difference", found.rank, 100.0 * found.share())
    }

    /// Gives all directions the mean of the singular values.
    pub fn flatten(&mut self, engine: &Engine, mut found: Top) -> String {
        let short = self.short();
        let values: Vec<f64> = found.squares.iter().map(|square| square.sqrt()).collect();
        let mean = values.iter().sum::<f64>() / short as f64;
        let resolved = values.iter().filter(|s| **s > RESOLVED * values[0]).count();
        found.vectors.truncate(resolved * short);
        for (row, s) in found.vectors.chunks_exact_mut(short).zip(&values) {
            let factor = (mean / s).sqrt();
            for x in row.iter_mut() {
                *x *= factor;
            }
        }
        let turn = gram(engine, View::new(&found.vectors, short));
        drop(found);
        self.each_panel(engine, |panel| product(engine, panel, View::new(&turn, short)));
        match short - resolved {
            0 => String::new(),
            _ if resolved == 0 => "no difference".to_owned(),
            _ => "directions of no strength left out".to_owned(),
        }
    }

    /// Replaces rows of the long side, some at a time, by what `make` gives for them.
    fn each_panel(&mut self, engine: &Engine, mut make: impl FnMut(View<f32>) -> Vec<f64>) {
        for panel in parts(0..self.long(), PANEL) {
            if engine.stopped() {
                return;
            }
            let new = make(self.view().rows(panel.clone()));
            self.set(panel, &new);
        }
    }

    /// Replaces rows of the long side, rounded to f32.
    pub fn set(&mut self, rows: Range<usize>, new: &[f64]) {
        let short = self.short();
        if self.wide {
            for (i, column) in rows.enumerate() {
                for row in 0..short {
                    self.values[row * self.columns + column] = new[i * short + row] as f32;
                }
            }
        } else {
            let values = &mut self.values[rows.start * short..][..new.len()];
            values.iter_mut().zip(new).for_each(|(value, new)| *value = *new as f32);
        }
    }
}

/// A range in parts of at most so many.
pub(super) fn parts(range: Range<usize>, of: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(of).map(move |first| first..end.min(first + of))
}
