//! A matrix that is held in f32, and what its singular vectors make of it.

use std::ops::Range;

use super::gemm::{View, gram, product};
use super::spectrum::{RESOLVED, Top};
use super::{Engine, PANEL};

/// A matrix as its long side sees it: rows, or else columns, none longer than they are many.
pub(super) struct Long {
    /// Its elements, row by row.
    pub values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Long {
    /// Rows of `columns` elements.
    pub fn new(values: Vec<f32>, rows: usize, columns: usize) -> Self {
        Self { values, rows, columns }
    }

    /// How many rows it sees.
    pub fn long(&self) -> usize {
        self.rows.max(self.columns)
    }

    /// How long they are.
    pub fn short(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// The rows.
    pub fn view(&self) -> View<'_, f32> {
        let view = View::new(&self.values, self.columns);
        if self.rows < self.columns { view.transposed() } else { view }
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
    pub fn each_panel(&mut self, engine: &Engine, mut make: impl FnMut(View<f32>) -> Vec<f64>) {
        let long = self.long();
        for first in (0..long).step_by(PANEL) {
            if engine.stopped() {
                return;
            }
            let panel = first..long.min(first + PANEL);
            let new = make(self.view().rows(panel.clone()));
            self.set(panel, &new);
        }
    }

    /// Replaces rows of the long side, rounded to f32.
    pub fn set(&mut self, rows: Range<usize>, new: &[f64]) {
        let short = self.short();
        if self.rows < self.columns {
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
