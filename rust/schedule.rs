//! The work cut into items: contiguous byte ranges of one output file, each made of whole cells of
//! the reduction grid, so that no cut can change a bit of a result or of a statistic.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::plan::Options;
use crate::resolve::{Operand, Unit, Work, byte_len};
use crate::simd::BLOCK;
use crate::stats::CELL;

/// What one worker makes in one go.
#[derive(Debug)]
pub struct Item {
    /// Index into the files.
    pub file: usize,
    /// Where its bytes start in the data of that file.
    pub at: u64,
    /// How many bytes it fills.
    pub len: usize,
    /// Its parts, in order.
    pub parts: std::ops::Range<usize>,
}

/// A range of elements of one unit; starts on a cell.
#[derive(Debug)]
pub struct Part {
    /// Index into the units.
    pub unit: usize,
    /// First element.
    pub first: u64,
    /// Number of elements.
    pub elements: usize,
}

/// How the job runs within its memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Worker threads.
    pub threads: usize,
    /// Most elements in an item.
    pub item_elements: u64,
    /// Bytes that all windows and buffers take together at most.
    pub working_bytes: u64,
}

/// Fit chunk and threads into the budget: smaller chunks first, then fewer threads, then refuse.
///
/// `working = threads * ((operands + 1) * item_elements * widest + scratch)`, where `widest` is the
/// largest element of any input or output and `scratch` the decoded blocks of one thread.
pub fn fit(work: &Work, options: &Options) -> Result<Shape> {
    let streams = work.units.iter().map(|u| u.operands.len() as u64).max().unwrap_or(0) + 1;
    let bits = work.units.iter().flat_map(dtypes).map(Dtype::bits).max().unwrap_or(8);
    let widest = bits.div_ceil(8);
    let scratch = streams * (BLOCK * size_of::<f32>()) as u64;
    let cell = CELL as u64;
    let need = |threads: usize, elements: u64| {
        (streams * elements * widest + scratch).saturating_mul(threads as u64)
    };
    let mut elements = (options.chunk / widest / cell).max(1) * cell;
    let mut threads = options.threads;
    while need(threads, elements) > options.memory_budget {
        if elements > cell {
            elements = (elements / 2 / cell).max(1) * cell;
        } else if threads > 1 {
            threads -= 1;
        } else {
            let what = format!(
                "memory budget: {} bytes are too few, expected at least {} for {streams} streams",
                options.memory_budget,
                need(1, cell)
            );
            return Err(Error::plan(what).hint("raise `--memory-budget`"));
        }
    }
    Ok(Shape { threads, item_elements: elements, working_bytes: need(threads, elements) })
}

fn dtypes(unit: &Unit) -> impl Iterator<Item = Dtype> + '_ {
    let operands = unit.operands.iter().filter_map(|operand| match operand {
        Operand::Rows { dtype, .. } => Some(*dtype),
        Operand::Values(_) => None,
    });
    operands.chain([unit.dtype])
}

/// Cut the units into items of at most `item_elements` elements.
pub fn cut(work: &Work, item_elements: u64) -> Result<(Vec<Item>, Vec<Part>)> {
    let (mut items, mut parts): (Vec<Item>, Vec<Part>) = (Vec::new(), Vec::new());
    let mut room = 0;
    let mut at = 0;
    let mut file = 0;
    for (index, unit) in work.units.iter().enumerate() {
        if unit.file != file {
            (file, at, room) = (unit.file, 0, 0);
        }
        let mut first = 0;
        while first < unit.elements {
            if room < (CELL as u64).min(unit.elements - first) || items.is_empty() {
                items.push(Item { file, at, len: 0, parts: parts.len()..parts.len() });
                room = item_elements;
            }
            let left = unit.elements - first;
            // Whole cells only, unless the unit ends.
            let take = if left <= room { left } else { room / CELL as u64 * CELL as u64 };
            let len = byte_len(take, unit.dtype)
                .ok_or_else(|| Error::internal(format!("`{}`: a cut inside a byte", unit.name)))?;
            parts.push(Part { unit: index, first, elements: take as usize });
            if let Some(item) = items.last_mut() {
                item.len += len as usize;
                item.parts.end = parts.len();
            }
            (first, at, room) = (first + take, at + len, room - take);
        }
    }
    Ok((items, parts))
}
