//! What a job did, as Python reads it.

use serde::Serialize;

use crate::plan::Statistics;
use crate::schedule::Shape;
use crate::simd::Isa;
use crate::stats::UnitStats;

/// What a job did.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The statistics of every unit with elements, in output order.
    pub units: Vec<UnitReport>,
    /// The modules of an adapter that was made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleReport>,
    /// Bytes read from the inputs.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// What happened around the output that its owner should know.
    pub notes: Vec<String>,
    /// Wall time of the whole job.
    pub seconds: f64,
    /// Wall time by phase.
    pub phases: Phases,
    /// Threads that the budget allowed.
    pub threads: usize,
    /// Elements per item that the budget allowed.
    pub chunk: u64,
    /// How inputs were read.
    pub io: &'static str,
    /// The instruction set used.
    pub isa: &'static str,
    /// Bytes that windows and buffers could take.
    pub working_bytes: u64,
    /// Peak resident memory of the process, in bytes.
    pub peak_rss: u64,
    /// Units whose statistics were computed, in passes over them before they were made.
    pub statistics_computed: usize,
    /// Units whose statistics were those of an earlier job.
    pub statistics_reused: usize,
    /// What the passes found, for a later job.
    pub statistics: Statistics,
}

impl Report {
    /// What is known before anything is done.
    #[must_use]
    pub fn planned(shape: Shape, is_mapped: bool, isa: &Isa) -> Self {
        Self {
            threads: shape.threads,
            chunk: shape.item_elements,
            io: if is_mapped { "mmap" } else { "pread" },
            isa: isa.name(),
            working_bytes: shape.working_bytes,
            ..Self::default()
        }
    }
}

/// One module of an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleReport {
    /// Its name.
    pub name: String,
    /// How many columns and rows its factors have; 0 if it is no product.
    pub rank: usize,
    /// The sum of squares of what it stands for.
    pub norm2: f64,
    /// The sum of squares of what is missing in it as it is written.
    pub residual2: f64,
}

/// Wall seconds by phase.
#[derive(Debug, Default, Serialize)]
pub struct Phases {
    /// Opening and checking.
    pub open: f64,
    /// Reading, combining, writing.
    pub compute: f64,
    /// Forcing to the device and making visible.
    pub commit: f64,
}

/// One unit.
#[derive(Debug, Serialize)]
pub struct UnitReport {
    /// Index into the plan's units.
    pub unit: usize,
    /// What is unusual about it, such as a formula's branch for vectors that are nearly parallel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What was measured.
    #[serde(flatten)]
    pub stats: UnitStats,
}
