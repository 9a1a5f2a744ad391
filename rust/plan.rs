//! What to do and how to run it, as Python writes it: two JSON documents.
//!
//! The plan decides every byte of the output; the options decide none. Unknown fields are refused,
//! so that a plan from another version never half-works. Nothing here opens a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::dtype::{Dtype, Overflow};
use crate::error::{Error, Result};
use crate::format::codec::CodecSpec;
use crate::io::source::{FileIdentity, ReadMode, Version};
use crate::io::target::{Copied, Target, Text};
use crate::io::unpublished::CachePolicy;

mod adapter;
mod operation;
mod terms;

pub use self::adapter::{
    AdapterSpec, AlphaSpec, FactorsSpec, MadeSpec, MatrixSpec, ModuleSpec, ProductSpec,
    ProductsSpec, SharedSpec,
};
pub use self::operation::{Action, Beside, OpSpec};
pub use self::terms::{
    Activation, Axis, FactorSpec, HadamardSpec, KroneckerSpec, LayerSpec, LowRankSpec,
    MagnitudeSpec, MixSpec, NetworkSpec, Norm, RowsSpec, ScaledSpec, SideSpec, TermSpec, ThinSpec,
};

/// The version of the plan's form; Python and Rust ship together, so it must be equal.
pub const PLAN_VERSION: u32 = 1;

/// Everything that decides the output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Must be [`PLAN_VERSION`].
    pub version: u32,
    /// What a value out of range becomes in an fp8 output.
    pub overflow: Overflow,
    /// Where the output goes.
    pub target: Target,
    /// The input files.
    pub sources: Vec<SourceSpec>,
    /// The weight files of the output.
    pub files: Vec<FileSpec>,
    /// Small files of an output folder.
    pub texts: Vec<Text>,
    /// Files taken over into an output folder.
    pub copies: Vec<Copied>,
    /// The tensors of the output, grouped by file, in data order.
    pub outputs: Vec<OutputSpec>,
    /// What fills the outputs, in output order, without holes.
    pub units: Vec<UnitSpec>,
    /// What the outputs are made into, if they are not what is written.
    #[serde(default)]
    pub adapter: Option<AdapterSpec>,
}

/// An input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceSpec {
    /// A local file.
    File(LocalSpec),
    /// Whatever else: the embedder hands it to the job.
    Given(GivenSpec),
}

/// A local file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSpec {
    /// Where it is.
    pub path: PathBuf,
    /// What it was when the plan was made.
    pub identity: FileIdentity,
}

/// A source that the embedder opened.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenSpec {
    /// What the embedder calls it.
    pub name: String,
    /// What it was when the plan was made.
    pub identity: Version,
}

/// A weight file of the output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Relative path; empty when the target is one file.
    pub path: String,
    /// What it says of itself, as texts.
    pub metadata: BTreeMap<String, String>,
    /// What stands around its tensors.
    #[serde(default)]
    pub container: ContainerSpec,
}

/// What stands around the tensors of a weight file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerSpec {
    /// A JSON header, with the texts as its `__metadata__`.
    #[default]
    Safetensors,
    /// A GGUF header, with the texts among its key-values.
    Gguf(GgufSpec),
}

/// The other key-values of a GGUF; its alignment the core adds itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GgufSpec {
    /// Those that are uint32.
    pub numbers: BTreeMap<String, u32>,
}

/// A tensor of the output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Index into `files`.
    pub file: usize,
    /// Its name in the file.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What its bytes mean.
    #[serde(default)]
    pub codec: CodecSpec,
}

/// A row range of one output and what fills it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSpec {
    /// Name for messages and the report.
    pub name: String,
    /// Index into `outputs`.
    pub output: usize,
    /// First row.
    pub start: u64,
    /// One past the last row.
    pub end: u64,
    /// What goes in: each operand is made of its terms, in this order.
    pub operands: Vec<Vec<TermSpec>>,
    /// How it is combined.
    pub op: OpSpec,
    /// What is added to the result, in this order, before it is rounded; no magnitude.
    #[serde(default)]
    pub added: Vec<TermSpec>,
}

/// How to run; never decides a byte.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What becomes of the result.
    pub mode: Mode,
    /// Worker threads.
    pub threads: usize,
    /// Bytes per window and buffer of a unit with two operands; more operands share their room.
    pub chunk: u64,
    /// Bytes that all windows and buffers together may take.
    pub memory_budget: u64,
    /// What that grows to if formulas of whole matrices or factors of products need it; nothing if it is
    /// less.
    #[serde(default)]
    pub matrix_budget: u64,
    /// How inputs are read.
    pub io: ReadMode,
    /// What happens to cached output pages.
    pub cache: CachePolicy,
    /// Replace an existing output.
    pub overwrite: bool,
    /// Measure the operands on the way.
    pub stats: bool,
    /// Instruction set, or `auto`.
    pub isa: String,
    /// Longest header accepted.
    pub max_header_bytes: u64,
    /// What earlier jobs found out about units; what this one finds is reported if it is given.
    #[serde(default)]
    pub statistics: Option<Statistics>,
}

/// What passes over units found, as numbers, by what they depend on.
pub type Statistics = BTreeMap<String, Vec<u64>>;

/// What becomes of the result.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is written.
    Write,
    /// Only the statistics are wanted.
    Measure,
    /// It is compared with an existing output.
    Check,
    /// Nothing is made: only how the job would run is wanted.
    Fit,
}

/// Read a plan.
pub fn parse_plan(json: &str) -> Result<Plan> {
    let plan: Plan = serde_json::from_str(json)
        .map_err(|e| Error::plan(format!("plan: not in the expected form: {e}")))?;
    if plan.version != PLAN_VERSION {
        let what = format!("plan: version {}, expected {PLAN_VERSION}", plan.version);
        return Err(Error::plan(what).hint("make the plan again with this version of submerge"));
    }
    Ok(plan)
}

/// Read the options.
pub fn parse_options(json: &str) -> Result<Options> {
    let options: Options = serde_json::from_str(json)
        .map_err(|e| Error::plan(format!("options: not in the expected form: {e}")))?;
    if options.threads == 0 || options.chunk == 0 {
        let (threads, chunk) = (options.threads, options.chunk);
        let what = format!(
            "options: {threads} threads and chunks of {chunk} bytes, expected at least 1 of each"
        );
        return Err(Error::plan(what));
    }
    Ok(options)
}
