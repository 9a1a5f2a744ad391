//! A plan checked against the files it names.
//!
//! Every name, dtype, shape and row range is checked again: a stale or hostile plan is an error
//! here, before anything is written, and never a wrong read later.

mod adapter;
pub mod encoding;
mod files;
pub mod network;
mod observed;
mod opened;
mod operand;
mod recall;
pub mod rows;
mod terms;
mod unit;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;

use self::encoding::{Encoding, To};
use self::files::lay_out;
use self::opened::{Inputs, open_inputs, too_large, uncomputable};
use self::terms::Extent;
use crate::dtype::{Dtype, Float, Overflow};
use crate::error::{Error, Result, quoted};
use crate::format::codec::Block;
use crate::io::source::{FileIdentity, Identity, Source};
use crate::kernels::linear::Linear;
use crate::kernels::runner::runner;
use crate::kernels::tile::Whole;
pub use crate::plan::Action;
use crate::plan::{Beside, Mode, OpSpec, Options, OutputSpec, Plan, TermSpec, UnitSpec};

pub use self::files::OutFile;
pub use self::opened::Sources;
pub use self::operand::{Operand, Term};
pub use self::rows::Rows;
pub use self::terms::{
    Factor, Hadamard, Kronecker, LowRank, Magnitude, Multiplied, Scaled, Thin, Values,
};
pub use self::unit::Unit;

/// A plan whose every reference is known to be good.
#[derive(Debug)]
pub struct Work {
    /// The open inputs.
    pub sources: Vec<Arc<dyn Source>>,
    /// The weight files to make.
    pub files: Vec<OutFile>,
    /// What fills them, in order.
    pub units: Vec<Unit>,
    /// How each output is written.
    pub encodings: Vec<Encoding>,
    /// What a value out of range becomes in an fp8 output.
    pub overflow: Overflow,
    /// Bytes that making an adapter of the outputs takes beside windows and buffers.
    pub adapter_bytes: u64,
}

/// Open the inputs of `plan` and check everything it says against them; reads no tensor.
pub fn resolve(plan: &Plan, options: &Options, given: &Sources) -> Result<Work> {
    let inputs = open_inputs(plan, options, given)?;
    let mut encodings = plan.outputs.iter().map(Encoding::of).collect::<Result<Vec<_>>>()?;
    let files = lay_out(plan, &mut encodings)?;
    let units = resolve_units(plan, &inputs, &encodings)?;
    let analyzes = |unit: &&Unit| matches!(unit.action, Action::Analyze(_));
    let makes = matches!(options.mode, Mode::Write | Mode::Check);
    if let Some(unit) = units.iter().find(analyzes).filter(|_| makes) {
        let name = quoted(&unit.name);
        return Err(Error::plan(format!("plan unit {name}: `analyze` makes nothing to write")));
    }
    let adapter_bytes = plan.adapter.as_ref().map_or(Ok(0), |spec| adapter::check(spec, plan))?;
    let Inputs { sources, .. } = inputs;
    let overflow = plan.overflow;
    let work = Work { sources, files, units, encodings, overflow, adapter_bytes };
    work.check_sides(&plan.outputs)?;
    Ok(work)
}

impl Work {
    /// Make the terms that come of small networks: they are read as a whole, before the job.
    pub fn evaluate_networks(&mut self) -> Result<()> {
        let units = self.units.iter_mut();
        let operands = units.flat_map(|unit| unit.operands.iter_mut().chain(&mut unit.added));
        let mut terms = operands.flat_map(|operand| &mut operand.terms);
        terms.try_for_each(|term| match term {
            Term::Network(network) => network.evaluate(&self.sources),
            _ => Ok(()),
        })
    }

    /// The units of each output, with those that stand beside it.
    pub fn outputs(&self) -> impl Iterator<Item = &[Unit]> {
        self.units.chunk_by(|a, b| a.output == b.output)
    }

    /// The inputs, as the check against overwriting them wants them.
    #[must_use]
    pub fn identities(&self) -> Vec<(PathBuf, FileIdentity)> {
        let local = |source: &dyn Source| match source.identity() {
            Identity::File(file) => Some((source.path().to_owned(), *file)),
            Identity::Version(_) => None,
        };
        self.sources.iter().filter_map(|source| local(source.as_ref())).collect()
    }
}

fn resolve_units(plan: &Plan, inputs: &Inputs, encodings: &[Encoding]) -> Result<Vec<Unit>> {
    let mut units = Vec::with_capacity(plan.units.len());
    let mut specs = plan.units.iter().peekable();
    for (index, output) in plan.outputs.iter().enumerate() {
        let rows = output.shape.first().copied().unwrap_or(1);
        let mut next = 0;
        while let Some(spec) = specs.next_if(|spec| spec.output == index) {
            if spec.start != next || spec.end < spec.start || spec.end > rows {
                let what = format!(
                    "plan unit {}: rows {}..{} of {}, expected to start at {next} and to end by {rows}",
                    quoted(&spec.name),
                    spec.start,
                    spec.end,
                    quoted(&output.name)
                );
                return Err(Error::plan(what));
            }
            next = spec.end;
            units.push(resolve_unit(spec, output, encodings, inputs)?);
        }
        if next != rows {
            let what = format!(
                "plan output {}: filled up to row {next}, expected {rows}",
                quoted(&output.name)
            );
            return Err(Error::plan(what));
        }
    }
    match specs.next() {
        None => Ok(units),
        Some(spec) => Err(Error::plan(format!(
            "plan unit {}: output {} out of order, expected units in output order",
            quoted(&spec.name),
            spec.output
        ))),
    }
}

fn resolve_unit(
    spec: &UnitSpec,
    output: &OutputSpec,
    encodings: &[Encoding],
    inputs: &Inputs,
) -> Result<Unit> {
    let here = format!("plan unit {}", quoted(&spec.name));
    let rows = spec.end - spec.start;
    let Encoding { codec, columns: row_elements, start, .. } = &encodings[spec.output];
    let (codec, row_elements) = (codec.clone(), *row_elements);
    let block = codec.as_ref().map_or(Block::of(output.dtype), |codec| codec.block());
    let elements = rows.checked_mul(row_elements).filter(|n| block.len(*n).is_some());
    let elements = elements.ok_or_else(|| too_large(&here))?;
    let extent = Extent { rows, row_elements };
    let operands = spec.operands.iter().map(|terms| Operand::check(terms, extent, inputs, &here));
    let mut operands = operands.collect::<Result<Vec<_>>>()?;
    let added = find_added(&spec.added, extent, inputs, &here)?;
    let to = To { dtype: output.dtype, codec: codec.as_deref() };
    let action = action_of(&spec.op, to, (&operands, &added), elements)
        .map_err(|what| Error::plan(format!("{here}: {what}")))?;
    if let Action::Compute(run) = &action
        && elements > run.longest()
    {
        let longest = run.longest();
        let what = format!("{here}: {elements} elements, expected at most {longest} for its op");
        return Err(Error::plan(what));
    }
    let (name, dtype) = (spec.name.clone(), output.dtype);
    let narrows = to.is_plain() && dtype.float().is_some_and(|float| float != Float::F32);
    if narrows && matches!(spec.op, OpSpec::Copy(_)) && added.is_empty() {
        operands.iter_mut().for_each(Operand::round_to_odd);
    }
    let before = block.len(spec.start * row_elements).ok_or_else(|| too_large(&here))?;
    let at = start.checked_add(before).ok_or_else(|| too_large(&here))?;
    let first_block = spec.start * row_elements / block.elements as u64;
    let row_elements = usize::try_from(row_elements).map_err(|_| too_large(&here))?;
    let beside =
        if let OpSpec::Beside(Beside { output, .. }) = spec.op { Some(output) } else { None };
    let written = beside.unwrap_or(spec.output);
    if written >= encodings.len() {
        let what = format!("beside output {written}, expected one of {}", encodings.len());
        return Err(Error::plan(format!("{here}: {what}")));
    }
    let (file, output) = (output.file, written);
    Ok(Unit {
        name,
        file,
        output,
        at,
        elements,
        row_elements,
        first_block,
        dtype,
        codec,
        action,
        operands,
        added,
    })
}

/// What is added to the result, one by one; without what comes to nothing.
fn find_added(
    specs: &[TermSpec],
    extent: Extent,
    inputs: &Inputs,
    here: &str,
) -> Result<Vec<Operand>> {
    let mut added = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let here = format!("{here}: added[{at}]");
        if matches!(spec, TermSpec::Magnitude(_)) {
            let what = format!("{here}: a magnitude, expected what can be added");
            return Err(Error::plan(what).hint("give it to the operand whose length it sets"));
        }
        let operand = Operand::check(std::slice::from_ref(spec), extent, inputs, &here)?;
        if !operand.terms.iter().all(Term::is_void) {
            added.push(operand);
        }
    }
    Ok(added)
}

/// How a unit is filled, or what is wrong with that.
fn action_of(
    op: &OpSpec,
    to: To,
    (operands, added): (&[Operand], &[Operand]),
    elements: u64,
) -> std::result::Result<Action, String> {
    let dtype = to.dtype;
    let same_bytes = added.is_empty() && operands.iter().all(|operand| operand.has_bytes_of(to));
    let whole = Whole { operands: operands.len(), elements };
    let action = op.clone().action(whole)?;
    let action = match action {
        Action::Copy if operands.len() == 1 && same_bytes => return Ok(Action::Copy),
        Action::Copy => Action::Compute(runner(Linear::sum(vec![1.0]), whole)?),
        Action::Same if !operands.is_empty() && same_bytes => return Ok(Action::Same),
        Action::Same if !added.is_empty() => {
            return Err("`same` copies bytes, to which nothing can be added".to_owned());
        }
        Action::Same => return Err(format!("`same` needs operands of dtype {}", dtype.name())),
        Action::Beside(_) if !operands.is_empty() || !added.is_empty() => {
            return Err("`beside` has operands".to_owned());
        }
        Action::Text(_) if !operands.is_empty() || !added.is_empty() => {
            return Err("`text` has operands".to_owned());
        }
        Action::Text(text) if dtype != Dtype::U8 || text.len() as u64 != elements => {
            let (n, name) = (text.len(), dtype.name());
            return Err(format!("a text of {n} bytes, expected {elements} elements of {name}"));
        }
        Action::Beside(_) | Action::Text(_) => return Ok(action),
        Action::Analyze(_) if !added.is_empty() => {
            return Err("`analyze` makes nothing that could be added to".to_owned());
        }
        action => action,
    };
    let rows = operands.iter().chain(added).flat_map(Operand::rows);
    let opaque = rows.filter(|rows| rows.codec.is_none()).map(|rows| rows.dtype);
    let written = match action {
        // Its rounding is asked about.
        Action::Analyze(_) => to.is_plain() && dtype.float().is_some(),
        _ => to.codec.is_some(),
    };
    if let Some(codec) = to.codec.filter(|codec| !codec.writes()) {
        return Err(format!("numbers for {}, which is only read and copied", codec.name()));
    }
    match opaque.chain((!written).then_some(dtype)).next() {
        None => Ok(action),
        Some(other) => Err(uncomputable(other)),
    }
}
