//! A plan checked against the files it names.
//!
//! Every name, dtype, shape and row range is checked again: a stale or hostile plan is an error
//! here, before anything is written, and never a wrong read later.

mod network;
mod recall;
mod unit;
mod whole;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::dtype::{Dtype, Overflow};
use crate::error::{Error, Result, quoted};
use crate::format::safetensors::{self, Header, Tensor};
use crate::io::source::{FileIdentity, Identity, LocalFile, Source};
use crate::kernels::linear::Linear;
use crate::kernels::runner::runner;
use crate::kernels::tile::Whole;
pub use crate::plan::Action;
use crate::plan::{Mode, OpSpec, OperandSpec, Options, OutputSpec, Plan, RowsSpec, UnitSpec};

pub use self::unit::{Operand, Unit};

/// A plan whose every reference is known to be good.
#[derive(Debug)]
pub struct Work {
    /// The open inputs.
    pub sources: Vec<Box<dyn Source>>,
    /// The weight files to make.
    pub files: Vec<OutFile>,
    /// What fills them, in order.
    pub units: Vec<Unit>,
    /// What a value out of range becomes in an fp8 output.
    pub overflow: Overflow,
}

/// A weight file to make.
#[derive(Debug)]
pub struct OutFile {
    /// Relative path; empty when the target is one file.
    pub path: String,
    /// The bytes before the data.
    pub header: Vec<u8>,
    /// Bytes of data.
    pub data_len: u64,
}

/// Bytes that `elements` of `dtype` take, if that is a whole number.
#[must_use]
pub fn byte_len(elements: u64, dtype: Dtype) -> Option<u64> {
    let bits = elements.checked_mul(dtype.bits())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

struct Inputs {
    sources: Vec<Box<dyn Source>>,
    headers: Vec<Header>,
}

/// Open the inputs of `plan` and check everything it says against them.
pub fn resolve(plan: &Plan, options: &Options) -> Result<Work> {
    let inputs = open_inputs(plan, options)?;
    let files = lay_out(plan)?;
    let units = resolve_units(plan, &inputs)?;
    let analyzes = |unit: &&Unit| matches!(unit.action, Action::Analyze(_));
    let makes = matches!(options.mode, Mode::Write | Mode::Check);
    if let Some(unit) = units.iter().find(analyzes).filter(|_| makes) {
        let name = quoted(&unit.name);
        return Err(Error::plan(format!("plan unit {name}: `analyze` makes nothing to write")));
    }
    Ok(Work { sources: inputs.sources, files, units, overflow: plan.overflow })
}

impl Work {
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

fn open_inputs(plan: &Plan, options: &Options) -> Result<Inputs> {
    let mut inputs = Inputs { sources: Vec::new(), headers: Vec::new() };
    for spec in &plan.sources {
        let source = LocalFile::open(&spec.path, options.io)?;
        source.expect(&Identity::File(spec.identity))?;
        inputs.headers.push(safetensors::read(&source, options.max_header_bytes)?);
        inputs.sources.push(Box::new(source));
    }
    Ok(inputs)
}

/// The headers of the output files.
fn lay_out(plan: &Plan) -> Result<Vec<OutFile>> {
    let mut tensors: Vec<Vec<Tensor>> = plan.files.iter().map(|_| Vec::new()).collect();
    let mut names = BTreeSet::new();
    let mut last_file = 0;
    for output in &plan.outputs {
        let here = format!("plan output {}", quoted(&output.name));
        if output.file < last_file || output.file >= plan.files.len() {
            let what =
                format!("{here}: file {}, expected {last_file}..{}", output.file, plan.files.len());
            return Err(Error::plan(what));
        }
        last_file = output.file;
        if !names.insert((output.file, output.name.as_str())) {
            return Err(Error::plan(format!("{here}: named twice in one file, expected once")));
        }
        let elements = elements_of(output).ok_or_else(|| too_large(&here))?;
        let len = byte_len(elements, output.dtype).ok_or_else(|| too_large(&here))?;
        let file = &mut tensors[output.file];
        let start = file.last().map_or(0, |t| t.end);
        let end = start.checked_add(len).ok_or_else(|| too_large(&here))?;
        file.push(Tensor {
            name: output.name.clone(),
            dtype: output.dtype,
            shape: output.shape.clone(),
            start,
            end,
        });
    }
    let files = plan.files.iter().zip(tensors).map(|(spec, tensors)| {
        let metadata: Vec<_> = spec.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let header = safetensors::encode(&metadata, &tensors)?;
        let data_len = tensors.last().map_or(0, |t| t.end);
        Ok(OutFile { path: spec.path.clone(), header, data_len })
    });
    files.collect()
}

fn elements_of(output: &OutputSpec) -> Option<u64> {
    output.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n))
}

#[cold]
fn too_large(here: &str) -> Error {
    Error::plan(format!("{here}: shape and dtype do not make a whole number of bytes below 2^64"))
}

fn resolve_units(plan: &Plan, inputs: &Inputs) -> Result<Vec<Unit>> {
    let mut units = Vec::with_capacity(plan.units.len());
    let mut specs = plan.units.iter().peekable();
    for (index, output) in plan.outputs.iter().enumerate() {
        let rows = output.shape.first().copied().unwrap_or(1);
        // Not `elements / rows`: rows of a tensor without any have a length too.
        let row_elements = output.shape.iter().skip(1).fold(1, |n: u64, &d| n.saturating_mul(d));
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
            units.push(resolve_unit(spec, output, row_elements, inputs)?);
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
    row_elements: u64,
    inputs: &Inputs,
) -> Result<Unit> {
    let here = format!("plan unit {}", quoted(&spec.name));
    let rows = spec.end - spec.start;
    let elements = rows * row_elements;
    if byte_len(elements, output.dtype).is_none() {
        return Err(too_large(&here));
    }
    let mut operands = Vec::new();
    for operand in &spec.operands {
        operands.push(match operand {
            OperandSpec::Rows(r) => {
                let (tensor, at) = find_rows(r, inputs, &here)?;
                expect_equal(&here, "rows", rows, r.end - r.start)?;
                expect_equal(&here, "elements in a row", row_elements, tensor.row_elements())?;
                Operand::Rows { source: r.source, at, dtype: tensor.dtype }
            }
            OperandSpec::Mlp(m) => {
                let values = network::evaluate(m, inputs, &here)?;
                expect_equal(&here, "values of the network", elements, values.len() as u64)?;
                Operand::Values(values)
            }
        });
    }
    let action = action_of(&spec.op, output.dtype, &operands, elements)
        .map_err(|what| Error::plan(format!("{here}: {what}")))?;
    if let Action::Compute(run) = &action
        && elements > run.longest()
    {
        let longest = run.longest();
        let what = format!("{here}: {elements} elements, expected at most {longest} for its op");
        return Err(Error::plan(what));
    }
    let (name, dtype) = (spec.name.clone(), output.dtype);
    let row_elements = usize::try_from(row_elements).map_err(|_| too_large(&here))?;
    Ok(Unit { name, file: output.file, elements, row_elements, dtype, action, operands })
}

/// How a unit is filled, or what is wrong with that.
fn action_of(
    op: &OpSpec,
    dtype: Dtype,
    operands: &[Operand],
    elements: u64,
) -> std::result::Result<Action, String> {
    let dtypes: Vec<Option<Dtype>> = operands
        .iter()
        .map(|o| match o {
            Operand::Rows { dtype, .. } => Some(*dtype),
            Operand::Values(_) => None,
        })
        .collect();
    let same_dtype = dtypes.iter().all(|d| *d == Some(dtype));
    let whole = Whole { operands: operands.len(), elements };
    let action = match op.clone().action(whole)? {
        Action::Copy if operands.len() == 1 && same_dtype => return Ok(Action::Copy),
        Action::Copy => Action::Compute(runner(Linear::sum(vec![1.0]), whole)?),
        Action::Same if !operands.is_empty() && same_dtype => return Ok(Action::Same),
        Action::Same => return Err(format!("`same` needs operands of dtype {}", dtype.name())),
        action => action,
    };
    let floats = dtypes.iter().flatten().chain([&dtype]);
    match floats.into_iter().find(|d| d.float().is_none()) {
        None => Ok(action),
        Some(other) => Err(format!(
            "dtype {} cannot be computed with, expected F32, F16, BF16, F8_E4M3 or F8_E5M2",
            other.name()
        )),
    }
}

/// The tensor that `rows` names and where its range starts in the file.
fn find_rows<'a>(rows: &RowsSpec, inputs: &'a Inputs, here: &str) -> Result<(&'a Tensor, u64)> {
    let header = inputs.headers.get(rows.source).ok_or_else(|| {
        Error::plan(format!(
            "{here}: source {}, expected one of {}",
            rows.source,
            inputs.headers.len()
        ))
    })?;
    let path = inputs.sources[rows.source].path().display();
    let tensor = header.tensor(&rows.tensor).ok_or_else(|| {
        Error::plan(format!("{here}: {path} has no tensor {}", quoted(&rows.tensor)))
    })?;
    if rows.start > rows.end || rows.end > tensor.rows() {
        let what = format!(
            "{here}: rows {}..{} of {} in {path}, which has {} rows",
            rows.start,
            rows.end,
            quoted(&rows.tensor),
            tensor.rows()
        );
        return Err(Error::plan(what));
    }
    let skipped = rows.start.checked_mul(tensor.row_elements());
    let skipped = skipped.and_then(|n| byte_len(n, tensor.dtype)).ok_or_else(|| too_large(here))?;
    Ok((tensor, header.data_start + tensor.start + skipped))
}

fn expect_equal(here: &str, what: &str, expected: u64, got: u64) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::plan(format!("{here}: {what} differ, expected {expected}, got {got}")))
}
