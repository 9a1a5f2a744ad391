//! The weight files of an output: what stands before their data, and where each tensor begins.

use std::collections::BTreeSet;

use super::encoding::{Encoding, To};
use super::opened::too_large;
use crate::error::{Error, Result, quoted};
use crate::format::codec::Block;
use crate::format::gguf::{self, Entry, Type};
use crate::format::safetensors::{self, Tensor};
use crate::plan::{ContainerSpec, FileSpec, GgufSpec, OutputSpec, Plan};

/// A weight file to make.
#[derive(Debug)]
pub struct OutFile {
    /// Relative path; empty when the target is one file.
    pub path: String,
    /// The bytes before the data.
    pub header: Vec<u8>,
    /// Bytes of data; those that no tensor fills are zeros.
    pub data_len: u64,
}

impl OutFile {
    /// Bytes of the whole.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.header.len() as u64 + self.data_len
    }
}

/// The files of a plan; every output is given its place in one.
pub(super) fn lay_out(plan: &Plan, encodings: &mut [Encoding]) -> Result<Vec<OutFile>> {
    check_order(plan)?;
    let mut files = Vec::new();
    let mut at = 0;
    for (index, spec) in plan.files.iter().enumerate() {
        let count = plan.outputs[at..].iter().take_while(|output| output.file == index).count();
        let outputs = &plan.outputs[at..at + count];
        files.push(file_of(spec, outputs, &mut encodings[at..at + count])?);
        at += count;
    }
    Ok(files)
}

/// Refuse outputs that are not grouped by file, or of one name in one file.
fn check_order(plan: &Plan) -> Result<()> {
    let mut names = BTreeSet::new();
    let mut last = 0;
    for output in &plan.outputs {
        let here = place_of(output);
        if output.file < last || output.file >= plan.files.len() {
            let what =
                format!("{here}: file {}, expected {last}..{}", output.file, plan.files.len());
            return Err(Error::plan(what));
        }
        last = output.file;
        if !names.insert((output.file, output.name.as_str())) {
            return Err(Error::plan(format!("{here}: named twice in one file, expected once")));
        }
    }
    Ok(())
}

fn file_of(spec: &FileSpec, outputs: &[OutputSpec], encodings: &mut [Encoding]) -> Result<OutFile> {
    let alignment = match spec.container {
        ContainerSpec::Safetensors => 1,
        ContainerSpec::Gguf(_) => gguf::ALIGNMENT,
    };
    let mut end = 0;
    let mut ends = Vec::new();
    for (output, encoding) in outputs.iter().zip(&mut *encodings) {
        let too_large = || too_large(&place_of(output));
        let elements = output.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
        let len = elements.and_then(|elements| Block::of(output.dtype).len(elements));
        encoding.start = gguf::aligned(end, alignment).ok_or_else(too_large)?;
        end = len.and_then(|len| encoding.start.checked_add(len)).ok_or_else(too_large)?;
        ends.push(end);
    }
    let header = match &spec.container {
        ContainerSpec::Safetensors => safetensors_header(spec, outputs, encodings, &ends)?,
        ContainerSpec::Gguf(gguf) => gguf_header(spec, gguf, outputs, encodings)?,
    };
    let data_len = gguf::aligned(end, alignment).unwrap_or(end);
    for (output, encoding) in outputs.iter().zip(encodings) {
        let start = encoding.start.checked_add(header.len() as u64);
        encoding.start = start.ok_or_else(|| too_large(&place_of(output)))?;
    }
    Ok(OutFile { path: spec.path.clone(), header, data_len })
}

fn safetensors_header(
    spec: &FileSpec,
    outputs: &[OutputSpec],
    encodings: &[Encoding],
    ends: &[u64],
) -> Result<Vec<u8>> {
    let metadata: Vec<_> = spec.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let tensors = outputs.iter().zip(encodings).zip(ends).map(|((output, encoding), end)| Tensor {
        name: output.name.clone(),
        dtype: output.dtype,
        shape: output.shape.clone(),
        start: encoding.start,
        end: *end,
    });
    safetensors::encode(&metadata, &tensors.collect::<Vec<_>>())
}

fn gguf_header(
    spec: &FileSpec,
    GgufSpec { numbers }: &GgufSpec,
    outputs: &[OutputSpec],
    encodings: &[Encoding],
) -> Result<Vec<u8>> {
    let entries = outputs.iter().zip(encodings).map(|(output, encoding)| {
        let kind = kind_of(output, encoding)?;
        let mut shape = output.shape.clone();
        match shape.last_mut() {
            // What the plan says of blocks is bytes.
            Some(row) if kind.dtype().is_none() => *row = *row / kind.bytes * kind.elements,
            _ => {}
        }
        Ok(Entry { name: &output.name, kind, shape, start: encoding.start })
    });
    gguf::encode(&spec.metadata, numbers, &entries.collect::<Result<Vec<_>>>()?)
}

/// The type that an output has in a GGUF.
fn kind_of(output: &OutputSpec, encoding: &Encoding) -> Result<&'static Type> {
    let to = To { dtype: output.dtype, codec: encoding.codec.as_deref() };
    let (kind, name) = match to.codec.filter(|_| !to.is_plain()) {
        Some(codec) => (Type::blocks(&codec.name()), codec.name()),
        None => (Type::plain(output.dtype), output.dtype.name().to_owned()),
    };
    kind.ok_or_else(|| {
        let what = format!("{}: {name}, expected a type that GGUF has", place_of(output));
        Error::plan(what).hint("write safetensors, or choose another dtype")
    })
}

fn place_of(output: &OutputSpec) -> String {
    format!("plan output {}", quoted(&output.name))
}
