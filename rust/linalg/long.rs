//! A matrix that is held in f32, seen from its long side.

use std::ops::Range;

use super::engine::{Engine, PANEL};
use super::gemm::View;

/// A matrix, or some of it, as its long side sees it: rows, or else columns.
pub struct Long {
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

    /// Replaces rows of the long side, some at a time, by what `make` gives for them.
    /// `None` if stopped or out of memory.
    pub fn each_panel(
        &mut self,
        engine: &Engine,
        mut make: impl FnMut(View<f32>) -> Option<Vec<f64>>,
    ) -> Option<()> {
        for panel in parts(0..self.long(), PANEL) {
            if engine.stopped() {
                return None;
            }
            let new = make(self.view().rows(panel.clone()))?;
            self.set(panel, &new);
        }
        Some(())
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
pub fn parts(range: Range<usize>, of: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(of).map(move |first| first..end.min(first + of))
}
