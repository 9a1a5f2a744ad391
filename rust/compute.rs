//! One item: read windows of the operands, combine them block by block, encode once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::dtype::{Dtype, Float, Overflow};
use crate::error::{Error, Result};
use crate::io::source::Window;
use crate::kernels::Kernel;
use crate::resolve::{Action, Operand, Unit, Work, byte_len};
use crate::schedule::{Part, Shape};
use crate::simd::{BLOCK, Isa, prefetch};
use crate::stats::{CELL, UnitStats};

/// The buffers of one worker, kept from item to item.
#[derive(Debug)]
pub struct Scratch {
    out: Vec<u8>,
    windows: Vec<Vec<u8>>,
    blocks: Vec<Vec<f32>>,
    result: Vec<f32>,
}

impl Scratch {
    /// Empty buffers that grow to what `shape` allows.
    #[must_use]
    pub fn new(_shape: Shape) -> Self {
        Self { out: Vec::new(), windows: Vec::new(), blocks: Vec::new(), result: vec![0.0; BLOCK] }
    }

    /// The bytes of the item computed last.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }
}

/// What is known about an item besides its bytes.
#[derive(Debug)]
pub struct Done {
    /// The statistics of each cell, with the index of its part, in order.
    pub cells: Vec<(usize, UnitStats)>,
    /// Bytes read from the inputs.
    pub read: u64,
}

struct Pass<'a> {
    isa: &'static Isa,
    stats: bool,
    overflow: Overflow,
    cancel: &'a AtomicBool,
}

/// Compute all parts of an item into `scratch`.
pub fn compute(
    work: &Work,
    parts: &[Part],
    isa: &'static Isa,
    stats: bool,
    cancel: &AtomicBool,
    scratch: &mut Scratch,
) -> Result<Done> {
    let pass = Pass { isa, stats, overflow: work.overflow, cancel };
    let mut done = Done { cells: Vec::new(), read: 0 };
    let Scratch { out, windows, blocks, result } = scratch;
    out.clear();
    for (index, part) in parts.iter().enumerate() {
        let unit = &work.units[part.unit];
        windows.resize_with(unit.operands.len().max(windows.len()), Vec::new);
        blocks.resize_with(unit.operands.len().max(blocks.len()), || vec![0.0; BLOCK]);
        let inputs = open_windows(work, unit, part, windows)?;
        done.read += inputs.iter().map(|input| input.bytes().len() as u64).sum::<u64>();
        let start = out.len();
        out.resize(start + len_of(part.elements, unit.dtype)?, 0);
        let mut buffers = Buffers { out: &mut out[start..], blocks, result };
        pass.part(unit, part, &inputs, &mut buffers, &mut |cell| done.cells.push((index, cell)))?;
    }
    Ok(done)
}

/// An operand over the elements of a part.
enum Input<'a> {
    Bytes(Window<'a>, Dtype),
    Values(&'a [f32]),
}

impl Input<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(window, _) => window,
            Self::Values(_) => &[],
        }
    }
}

struct Buffers<'a> {
    out: &'a mut [u8],
    blocks: &'a mut [Vec<f32>],
    result: &'a mut [f32],
}

fn open_windows<'a>(
    work: &'a Work,
    unit: &'a Unit,
    part: &Part,
    windows: &'a mut [Vec<u8>],
) -> Result<Vec<Input<'a>>> {
    let open = |(operand, buffer): (&'a Operand, &'a mut Vec<u8>)| match operand {
        Operand::Rows { source, at, dtype } => {
            let skip = len_of(usize::try_from(part.first).map_err(|_| split(unit))?, *dtype)?;
            let len = len_of(part.elements, *dtype)?;
            let window = work.sources[*source].window(at + skip as u64, len, buffer)?;
            Ok(Input::Bytes(window, *dtype))
        }
        Operand::Values(values) => {
            let first = usize::try_from(part.first).map_err(|_| split(unit))?;
            let range = values.get(first..first + part.elements).ok_or_else(|| split(unit))?;
            Ok(Input::Values(range))
        }
    };
    unit.operands.iter().zip(windows).map(open).collect()
}

impl Pass<'_> {
    fn part(
        &self,
        unit: &Unit,
        part: &Part,
        inputs: &[Input],
        buffers: &mut Buffers,
        emit: &mut dyn FnMut(UnitStats),
    ) -> Result<()> {
        if matches!(unit.action, Action::Copy | Action::Same) {
            let first = inputs.first().map_or(&[][..], Input::bytes);
            if inputs.iter().any(|input| input.bytes() != first) {
                let what =
                    format!("`{}`: differs between the models, expected equal values", unit.name);
                let hint =
                    "this dtype cannot be merged; take the tensor from one model with a rule";
                return Err(Error::plan(what).hint(hint));
            }
            buffers.out.copy_from_slice(first);
        }
        for first in (0..part.elements).step_by(CELL) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::cancelled());
            }
            let cell = first..part.elements.min(first + CELL);
            let stats = match (&unit.action, unit.dtype.float()) {
                (Action::Compute(kernel), Some(to)) => self.cell(kernel, to, cell, inputs, buffers),
                (Action::Compute(_), None) => return Err(split(unit)),
                (Action::Copy | Action::Same, to) => self.copied(to, &cell, buffers),
            };
            emit(stats);
        }
        Ok(())
    }

    fn cell(
        &self,
        kernel: &Kernel,
        to: Float,
        cell: std::ops::Range<usize>,
        inputs: &[Input],
        buffers: &mut Buffers,
    ) -> UnitStats {
        let mut stats = UnitStats::new(if self.stats { inputs.len() } else { 0 });
        for first in cell.clone().step_by(BLOCK) {
            let block = first..cell.end.min(first + BLOCK);
            let n = block.len();
            for (input, decoded) in inputs.iter().zip(buffers.blocks.iter_mut()) {
                self.decode(input, block.clone(), &mut decoded[..n]);
            }
            let mut operands = [&[][..]; MANY];
            let decoded = slices(&buffers.blocks[..inputs.len()], n, &mut operands);
            kernel.map(self.isa, decoded.as_slice(), &mut buffers.result[..n]);
            let bytes = &mut buffers.out[block.start * to.bytes()..block.end * to.bytes()];
            self.isa.encode(to, self.overflow, &buffers.result[..n], bytes);
            if self.stats {
                stats.add_block(self.isa, decoded.as_slice(), to, bytes);
            } else {
                stats.elements += n as u64;
            }
        }
        stats
    }

    /// What a copied cell holds: only non-finite values are counted, and only if asked for.
    fn copied(
        &self,
        to: Option<Float>,
        cell: &std::ops::Range<usize>,
        buffers: &mut Buffers,
    ) -> UnitStats {
        let mut stats = UnitStats::new(0);
        stats.elements = cell.len() as u64;
        if let Some(to) = to.filter(|_| self.stats) {
            for first in cell.clone().step_by(BLOCK) {
                let block = first..cell.end.min(first + BLOCK);
                let result = &mut buffers.result[..block.len()];
                self.isa.decode(
                    to,
                    &buffers.out[block.start * to.bytes()..block.end * to.bytes()],
                    result,
                );
                stats.nonfinite_out += self.isa.count_nonfinite(result);
            }
        }
        stats
    }

    fn decode(&self, input: &Input, block: std::ops::Range<usize>, out: &mut [f32]) {
        match input {
            Input::Values(values) => out.copy_from_slice(&values[block]),
            Input::Bytes(window, dtype) => {
                // `resolve` lets nothing but floats be computed with.
                let Some(from) = dtype.float() else { return };
                let bytes = block.start * from.bytes()..block.end * from.bytes();
                let next = bytes.end..window.len().min(bytes.end + bytes.len());
                prefetch(&window[next]);
                self.isa.decode(from, &window[bytes], out);
            }
        }
    }
}

/// Operands that fit on the stack; more take a vector.
const MANY: usize = 16;

enum Slices<'a, 'b> {
    Few(&'b [&'a [f32]]),
    Many(Vec<&'a [f32]>),
}

impl<'a> Slices<'a, '_> {
    fn as_slice(&self) -> &[&'a [f32]] {
        match self {
            Self::Few(slices) => slices,
            Self::Many(slices) => slices,
        }
    }
}

fn slices<'a, 'b>(
    blocks: &'a [Vec<f32>],
    n: usize,
    few: &'b mut [&'a [f32]; MANY],
) -> Slices<'a, 'b> {
    if blocks.len() > MANY {
        return Slices::Many(blocks.iter().map(|block| &block[..n]).collect());
    }
    few.iter_mut().zip(blocks).for_each(|(slot, block)| *slot = &block[..n]);
    Slices::Few(&few[..blocks.len()])
}

fn len_of(elements: usize, dtype: Dtype) -> Result<usize> {
    byte_len(elements as u64, dtype).and_then(|len| usize::try_from(len).ok()).ok_or_else(|| {
        Error::internal(format!("{elements} elements of {} are not whole bytes", dtype.name()))
    })
}

#[cold]
fn split(unit: &Unit) -> Error {
    Error::internal(format!("`{}`: a part does not fit its unit", unit.name))
}
