//! The sources of a plan, open, with their headers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::{self, Header, Tensor};
use crate::io::source::{Identity, LocalFile, Source};
use crate::plan::{Options, Plan, SourceSpec};

/// Sources that an embedder opened, by the names a plan has for them.
pub type Sources = BTreeMap<String, Arc<dyn Source>>;

/// The inputs of a plan.
pub(super) struct Inputs {
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) headers: Vec<Header>,
}

impl Inputs {
    /// A tensor that a plan names, and the header it stands in.
    pub(super) fn tensor(
        &self,
        source: usize,
        name: &str,
        here: &str,
    ) -> Result<(&Header, &Tensor)> {
        let header = self.headers.get(source).ok_or_else(|| {
            let count = self.headers.len();
            Error::plan(format!("{here}: source {source}, expected one of {count}"))
        })?;
        let tensor = header.tensor(name).ok_or_else(|| {
            let path = self.sources[source].path().display();
            Error::plan(format!("{here}: {path} has no tensor {}", quoted(name)))
        })?;
        Ok((header, tensor))
    }
}

/// Open the sources of `plan` and read their headers.
pub(super) fn open_inputs(plan: &Plan, options: &Options, given: &Sources) -> Result<Inputs> {
    let mut inputs = Inputs { sources: Vec::new(), headers: Vec::new() };
    for spec in &plan.sources {
        let source = open_source(spec, options, given)?;
        inputs.headers.push(format::read(&*source, options.max_header_bytes)?);
        inputs.sources.push(source);
    }
    Ok(inputs)
}

/// The source that a plan names, if it still is what the plan was made for.
fn open_source(spec: &SourceSpec, options: &Options, given: &Sources) -> Result<Arc<dyn Source>> {
    match spec {
        SourceSpec::File(file) => {
            let source = LocalFile::open(&file.path, options.io)?;
            source.expect(&Identity::File(file.identity))?;
            Ok(Arc::new(source))
        }
        SourceSpec::Given(spec) => {
            let named = given.get(&spec.name).ok_or_else(|| {
                let name = quoted(&spec.name);
                Error::plan(format!("plan source {name}: not given to the job, expected it"))
            })?;
            named.expect(&Identity::Version(spec.identity.clone()))?;
            Ok(Arc::clone(named))
        }
    }
}

/// What is said of a dtype that is no number format.
pub(super) fn uncomputable(dtype: Dtype) -> String {
    format!(
        "dtype {} cannot be computed with, expected F64, F32, F16, BF16, F8_E4M3 or F8_E5M2",
        dtype.name()
    )
}

pub(super) fn expect_equal(here: &str, what: &str, expected: u64, got: u64) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::plan(format!("{here}: {what} differ, expected {expected}, got {got}")))
}

#[cold]
pub(super) fn too_large(here: &str) -> Error {
    Error::plan(format!("{here}: shape and dtype do not make a whole number of bytes below 2^64"))
}
