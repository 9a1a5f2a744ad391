//! The work cut into items: contiguous byte ranges of one output file, each made of whole cells of
//! the reduction grid, so that no cut can change a bit of a result or of a statistic.

use crate::error::{Error, Result};
use crate::io::sys;
use crate::memory;
use crate::plan::Options;
use crate::resolve::{Unit, Work};
use crate::simd::BLOCK;
use crate::stats::CELL;

/// Bytes of a worker's stack.
pub const STACK: usize = 2 << 20;

/// What a worker may take besides the buffers that the schedule counts: tables of threads and
/// allocators, sums of a cell, an error.
const BESIDE: u64 = 1 << 20;

/// Addresses that glibc sets aside for a thread that allocates; where they are few, its heap takes
/// them away from the others' buffers.
const ARENA: u64 = 64 << 20;

/// What one worker makes in one go.
#[derive(Debug)]
pub struct Item {
    /// Index into the files.
    pub file: usize,
    /// Where its bytes start in that file.
    pub at: u64,
    /// How many bytes it fills; none if it is only summed.
    pub len: usize,
    /// Its parts, in order.
    pub parts: std::ops::Range<usize>,
    /// What is done with them.
    pub pass: Pass,
    /// The item whose turn must have come before this one may be computed: the first of its pass,
    /// if that builds on others.
    pub after: Option<usize>,
}

/// What is done with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Its only unit is summed, in the n-th pass; nothing is written.
    Reduce(usize),
    /// Its only unit is combined, for its output's codec to see the values; nothing is written.
    Observe,
    /// It is combined and written.
    Map,
}

/// A range of elements of one unit; starts on a cell of its grid.
#[derive(Debug)]
pub struct Part {
    /// Index into the units.
    pub unit: usize,
    /// First element.
    pub first: u64,
    /// Number of elements.
    pub elements: usize,
}

impl Part {
    /// Its elements.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.elements as u64
    }
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
/// `working = threads * ((terms + 1) * (item_elements + halo) * widest + scratch + beside) + kept`,
/// where `terms` are the ranges of rows that a unit's operands are the sums of, `halo` the elements
/// shown around an item, `widest` is the largest element of any window or output, `beside` what a worker
/// holds of products, magnitudes and side tensors (of a product of two thin matrices all of `down` in f32, and
/// some rows of the sum), `scratch` the decoded tiles and the sums of one thread and what it holds of a whole
/// matrix, and `kept` what is known of the unit that is being made, or of all units of an output whose
/// codec must see them first, and what an adapter is made in; what an analysis or such a codec finds in an
/// item comes on top.
pub fn fit(work: &Work, options: &Options) -> Result<Shape> {
    let streams = work.units.iter().map(Unit::streams).max().unwrap_or(1);
    let widest = work.units.iter().map(Unit::widest).max().unwrap_or(1);
    let tile = work.units.iter().map(Unit::tile).max().unwrap_or(BLOCK);
    let state = work.units.iter().map(Unit::state_bytes).max().unwrap_or(0);
    let whole = work.units.iter().map(Unit::whole_bytes).max().unwrap_or(0);
    let scratch = streams * (tile * size_of::<f32>()) as u64 + state + whole;
    let cell = work.units.iter().map(Unit::cell).max().unwrap_or(CELL) as u64;
    let halo = 2 * work.units.iter().map(Unit::halo).max().unwrap_or(0) as u64;
    let found = work.units.iter().map(Unit::cell_bytes).max().unwrap_or(0);
    let kept = work.outputs().map(|units| work.kept_bytes(units)).max().unwrap_or(0);
    let kept = kept + work.adapter_bytes;
    let beside = |elements: u64| {
        let of = |unit: &Unit| unit.beside(elements) + work.seen_bytes(unit, elements);
        work.units.iter().map(of).max().unwrap_or(0)
    };
    let need = |threads: usize, elements: u64| {
        // Cells of whole rows are more than half as large as others.
        let seen = (2 * elements / CELL as u64 + 1) * found;
        let each = streams * (elements + halo) * widest + scratch + seen;
        let each = each.saturating_add(beside(elements + halo));
        each.saturating_mul(threads as u64).saturating_add(kept)
    };
    // Many operands share the room of two, so that memory stays the same however many models meet.
    let chunk = options.chunk.saturating_mul(3) / streams.max(3);
    let mut elements = (chunk / widest / cell).max(1) * cell;
    let mut threads = options.threads;
    let mut budget = options.memory_budget;
    let factors = work.units.iter().any(|unit| unit.kept_terms_bytes() > 0);
    let matrices = whole > 0 || work.adapter_bytes > 0;
    if matrices || factors {
        budget = budget.max(options.matrix_budget);
        // Smaller chunks make no room for a matrix.
        while threads > 1 && need(threads, cell) > budget {
            threads -= 1;
        }
    }
    while need(threads, elements) > budget {
        if elements > cell {
            elements = (elements / 2 / cell).max(1) * cell;
        } else if threads > 1 {
            threads -= 1;
        } else {
            let of = match (matrices, factors) {
                (true, _) => "whole matrices and ",
                (_, true) => "factors of products and ",
                _ => "",
            };
            let least = need(1, cell);
            let what = format!(
                "memory_budget: {budget} bytes of working memory are too few, expected at least {least} \
                 for {of}{streams} streams"
            );
            return Err(Error::plan(what).hint("raise `memory_budget`"));
        }
    }
    Ok(Shape { threads, item_elements: elements, working_bytes: need(threads, elements) })
}

/// How the job runs: as [`fit`] says, with fewer threads where there is no room for so many. Asked
/// before anything is written: a worker has no way to go on without its buffers.
pub fn affordable(work: &Work, options: &Options) -> Result<Shape> {
    let mut options = options.clone();
    loop {
        let shape = fit(work, &options)?;
        let beside = shape.threads as u64 * (STACK as u64 + BESIDE);
        let needed = shape.working_bytes + beside + listed(work, shape.item_elements);
        let set_aside = needed + shape.threads as u64 * ARENA;
        let few = shape.threads == 1;
        if sys::has_room(needed)
            && (few || sys::has_addresses(set_aside) || !sys::has_addresses(ARENA))
        {
            return Ok(shape);
        }
        if few {
            return Err(memory::none_left(needed));
        }
        options.threads = shape.threads / 2;
    }
}

/// Bytes that the items and parts of [`cut`] take at most, while their lists grow: they are then
/// held twice, with room for as many more.
fn listed(work: &Work, item_elements: u64) -> u64 {
    let each = (size_of::<Item>() + size_of::<Part>()) as u64;
    let passes = |unit: &Unit| unit.passes() as u64 + 1;
    let items = |unit: &Unit| passes(unit) * (unit.elements / item_elements.max(1) + 2);
    3 * each * work.units.iter().map(items).sum::<u64>()
}

/// Cut the units into items of at most `item_elements` elements.
///
/// A unit whose kernel makes passes has items of its own: one pass after the other, then the map.
/// Where the output's codec must see all values first, each of its units is mapped twice: all to be
/// observed, then all to be written.
pub fn cut(work: &Work, item_elements: u64) -> Result<(Vec<Item>, Vec<Part>)> {
    let mut cut =
        Cutter { item_elements, items: Vec::new(), parts: Vec::new(), file: 0, at: 0, room: 0 };
    let mut index = 0;
    for units in work.outputs() {
        let numbered = || (index..).zip(units);
        let observes = work.encodings[units[0].output].observes();
        for (at, unit) in numbered().filter(|(_, unit)| observes && unit.is_encoded()) {
            cut.passes(at, unit)?;
            cut.alone(at, unit, Pass::Observe, unit.passes() > 0)?;
        }
        for (at, unit) in numbered() {
            if (unit.file, unit.at) != (cut.file, cut.at) {
                (cut.file, cut.at, cut.room) = (unit.file, unit.at, 0); // what is between is padding
            }
            if observes {
                cut.alone(at, unit, Pass::Map, true)?;
            } else if unit.passes() > 0 {
                cut.passes(at, unit)?;
                cut.alone(at, unit, Pass::Map, true)?;
            } else {
                cut.unit(at, unit, Pass::Map, None)?;
            }
        }
        index += units.len();
    }
    Ok((cut.items, cut.parts))
}

struct Cutter {
    item_elements: u64,
    items: Vec<Item>,
    parts: Vec<Part>,
    file: usize,
    at: u64,
    /// Elements that the last item can still take.
    room: u64,
}

impl Cutter {
    /// The passes that the kernel of a unit makes.
    fn passes(&mut self, index: usize, unit: &Unit) -> Result<()> {
        (0..unit.passes())
            .try_for_each(|pass| self.alone(index, unit, Pass::Reduce(pass), pass > 0))
    }

    /// A unit in items of its own, which may build on all before them.
    fn alone(&mut self, index: usize, unit: &Unit, pass: Pass, builds: bool) -> Result<()> {
        self.room = 0;
        let begun = self.items.len();
        self.unit(index, unit, pass, builds.then_some(begun))?;
        self.room = 0;
        Ok(())
    }

    fn unit(&mut self, index: usize, unit: &Unit, pass: Pass, after: Option<usize>) -> Result<()> {
        let cell = unit.grain().max(1);
        let mut first = 0;
        while first < unit.elements {
            let left = unit.elements - first;
            if self.room < cell.min(left) || self.items.is_empty() {
                let parts = self.parts.len()..self.parts.len();
                self.items.push(Item { file: self.file, at: self.at, len: 0, parts, pass, after });
                self.room = self.item_elements.max(cell);
            }
            // Whole cells only, unless the unit ends.
            let take = if left <= self.room { left } else { self.room / cell * cell };
            let len = match pass {
                Pass::Reduce(_) | Pass::Observe => 0,
                Pass::Map => unit.bytes_of(take as usize)?,
            };
            self.parts.push(Part { unit: index, first, elements: take as usize });
            if let Some(item) = self.items.last_mut() {
                item.len += len;
                item.parts.end = self.parts.len();
            }
            (first, self.at, self.room) = (first + take, self.at + len as u64, self.room - take);
        }
        Ok(())
    }
}
