//! A plan checked against the files it names.
//!
//! Every name, dtype, shape and row range is looked up again: a stale or hostile plan is an error
//! here, before anything is written, and never a wrong read later.

mod network;
mod whole;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::checkpoint::{self, Header, Tensor};
use crate::dtype::{Dtype, Overflow};
use crate::error::{Error, Result, quoted};
use crate::io::source::{Identity, Source};
use crate::kernels::{Kernel, Linear};
use crate::plan::{OpSpec, OperandSpec, Options, OutputSpec, Plan, RowsSpec, UnitSpec};
use crate::simd::BLOCK;
use crate::stats::CELL;

/// A plan whose every reference is known to be good.
#[derive(Debug)]
pub struct Work {
    /// The open inputs.
    pub sources: Vec<Source>,
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

/// A contiguous range of one output file and what fills it.
#[derive(Debug)]
pub struct Unit {
    /// Name for messages.
    pub name: String,
    /// Index into the files.
    pub file: usize,
    /// Number of elements.
    pub elements: u64,
    /// Elements of one row.
    pub row_elements: usize,
    /// Dtype of the output.
    pub dtype: Dtype,
    /// How it is filled.
    pub action: Action,
    /// What goes in.
    pub operands: Vec<Operand>,
}

/// How a unit is filled.
#[derive(Debug)]
pub enum Action {
    /// The bytes of the only operand.
    Copy,
    /// The bytes of the first operand, to which all others must be equal.
    Same,
    /// A formula in f32, rounded once.
    Compute(Kernel),
}

/// Something a unit is made of.
#[derive(Debug)]
pub enum Operand {
    /// A contiguous range of an input file.
    Rows {
        /// Index into the sources.
        source: usize,
        /// Where the range starts in the file.
        at: u64,
        /// Dtype of its elements.
        dtype: Dtype,
    },
    /// One value per element.
    Values(Vec<f32>),
}

impl Unit {
    /// Elements per cell of the unit's grid: [`CELL`], or as many whole rows as it holds.
    #[must_use]
    pub fn cell(&self) -> usize {
        match &self.action {
            Action::Compute(kernel) if kernel.by_rows() => {
                let row = self.row_elements.max(1);
                (CELL / row).max(1) * row
            }
            _ => CELL,
        }
    }

    /// Elements decoded at once.
    #[must_use]
    pub fn stretch(&self) -> usize {
        match &self.action {
            Action::Compute(kernel) if kernel.by_rows() => self.cell() + 2 * self.halo(),
            _ => BLOCK,
        }
    }

    /// Elements before and after those it fills that a part must see.
    #[must_use]
    pub fn halo(&self) -> usize {
        match &self.action {
            Action::Compute(kernel) => kernel.halo() * self.row_elements.max(1),
            Action::Copy | Action::Same => 0,
        }
    }

    /// How often the unit is looked at before it is combined.
    #[must_use]
    pub fn passes(&self) -> usize {
        match &self.action {
            Action::Compute(kernel) => kernel.passes(),
            Action::Copy | Action::Same => 0,
        }
    }

    /// Bytes of sums that a worker holds while it looks.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        match &self.action {
            Action::Compute(kernel) => kernel.state_bytes(self.operands.len(), self.stretch()),
            Action::Copy | Action::Same => 0,
        }
    }
}

/// Bytes that `elements` of `dtype` take, if that is a whole number.
#[must_use]
pub fn byte_len(elements: u64, dtype: Dtype) -> Option<u64> {
    let bits = elements.checked_mul(dtype.bits())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

struct Inputs {
    sources: Vec<Source>,
    headers: Vec<Header>,
}

/// Open the inputs of `plan` and check everything it says against them.
pub fn resolve(plan: &Plan, options: &Options) -> Result<Work> {
    let inputs = open_inputs(plan, options)?;
    let files = lay_out(plan)?;
    let units = resolve_units(plan, &inputs)?;
    Ok(Work { sources: inputs.sources, files, units, overflow: plan.overflow })
}

impl Work {
    /// The inputs, as the check against overwriting them wants them.
    #[must_use]
    pub fn identities(&self) -> Vec<(PathBuf, Identity)> {
        self.sources.iter().map(|s| (s.path().to_owned(), *s.identity())).collect()
    }
}

fn open_inputs(plan: &Plan, options: &Options) -> Result<Inputs> {
    let mut inputs = Inputs { sources: Vec::new(), headers: Vec::new() };
    for spec in &plan.sources {
        let source = Source::open(&spec.path, options.io)?;
        if *source.identity() != spec.identity {
            let what = format!("{}: is not the file the plan was made for", spec.path.display());
            return Err(Error::plan(what).hint("it changed since; make the plan again"));
        }
        inputs.headers.push(checkpoint::read(source.file(), &spec.path, options.max_header_bytes)?);
        inputs.sources.push(source);
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
        let header = checkpoint::encode(&metadata, &tensors)?;
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
    let action = action_of(&spec.op, output.dtype, &operands, &here)?;
    if let Action::Compute(kernel) = &action
        && elements > kernel.longest()
    {
        let longest = kernel.longest();
        let what = format!("{here}: {elements} elements, expected at most {longest} for its op");
        return Err(Error::plan(what));
    }
    let (name, dtype) = (spec.name.clone(), output.dtype);
    let row_elements = usize::try_from(row_elements).map_err(|_| too_large(&here))?;
    Ok(Unit { name, file: output.file, elements, row_elements, dtype, action, operands })
}

fn action_of(op: &OpSpec, dtype: Dtype, operands: &[Operand], here: &str) -> Result<Action> {
    let dtypes: Vec<Option<Dtype>> = operands
        .iter()
        .map(|o| match o {
            Operand::Rows { dtype, .. } => Some(*dtype),
            Operand::Values(_) => None,
        })
        .collect();
    let same_dtype = dtypes.iter().all(|d| *d == Some(dtype));
    let kernel = match op {
        OpSpec::Copy(_) if operands.len() == 1 && same_dtype => return Ok(Action::Copy),
        OpSpec::Same(_) if !operands.is_empty() && same_dtype => return Ok(Action::Same),
        OpSpec::Same(_) => {
            return Err(Error::plan(format!(
                "{here}: `same` needs operands of dtype {}",
                dtype.name()
            )));
        }
        OpSpec::Copy(_) => Kernel::Linear(Linear { weights: vec![1.0] }),
        OpSpec::Linear(linear) => Kernel::Linear(linear.clone()),
        OpSpec::Combine(combine) => Kernel::Combine(combine.clone()),
        OpSpec::Rows(rows) => Kernel::Rows(rows.clone()),
        OpSpec::Delta(delta) => Kernel::Delta(delta.clone()),
        OpSpec::Pointwise(pointwise) => Kernel::Pointwise(pointwise.clone()),
        OpSpec::Adaptive(adaptive) => Kernel::Adaptive(adaptive.clone()),
        OpSpec::Smooth(smooth) => Kernel::Smooth(smooth.clone()),
        OpSpec::Matrix(matrix) => Kernel::Matrix(matrix.clone()),
    };
    kernel.check(operands.len()).map_err(|what| Error::plan(format!("{here}: {what}")))?;
    let floats = dtypes.iter().flatten().chain([&dtype]);
    match floats.into_iter().find(|d| d.float().is_none()) {
        None => Ok(Action::Compute(kernel)),
        Some(other) => Err(Error::plan(format!(
            "{here}: dtype {} cannot be computed with, expected F32, F16, BF16, F8_E4M3 or F8_E5M2",
            other.name()
        ))),
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
