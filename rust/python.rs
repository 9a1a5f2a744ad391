//! The boundary: three functions, a cancel handle and a read handle. The only file that knows Python.
//!
//! A job runs detached from the interpreter; the calling thread attaches at most ten times a second
//! to look for signals and to call `progress`. Workers attach only to fill memory of the caller's.

// PyO3 hands extracted arguments over, and `map_err` its errors.
#![allow(clippy::needless_pass_by_value)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView, PySlice};

use crate::error::{Error, Kind};
use crate::exec::Given;
use crate::format::{self, Header, Tensor};
use crate::io::source::{Identity, LocalFile, ReadMode, Source as _};
use crate::io::unpublished::Pending;
use crate::plan::{OpSpec, PLAN_VERSION};
use crate::resolve::Work;
use crate::schedule::Item;
use crate::simd::Isa;
use crate::sink::{Describe, Sink, Written};
use crate::{exec, reader};

/// Cancels a running job from any thread.
#[pyclass(module = "submerge._core", frozen)]
struct Job {
    cancel: Arc<AtomicBool>,
}

#[pymethods]
impl Job {
    #[new]
    fn new() -> Self {
        Self { cancel: Arc::new(AtomicBool::new(false)) }
    }

    fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    #[getter]
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// A file of weights, held open and read into memory of the caller's.
#[pyclass(module = "submerge._core", frozen)]
struct Reader {
    path: PathBuf,
    open: Mutex<Option<Arc<reader::Reader>>>,
}

impl Reader {
    fn held(&self) -> crate::Result<Arc<reader::Reader>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| {
            let what = format!("{}: was closed, expected it open", self.path.display());
            Error::plan(what).hint("load the model again")
        })
    }
}

#[pymethods]
impl Reader {
    #[new]
    fn new(py: Python<'_>, path: PathBuf, identity: &str) -> PyResult<Self> {
        let open = || {
            let identity = serde_json::from_str(identity)
                .map_err(|e| Error::plan(format!("{}: identity: {e}", path.display())))?;
            reader::Reader::open(&path, identity)
        };
        let open = py.detach(open).map_err(|e| raise(py, e))?;
        Ok(Self { path, open: Mutex::new(Some(Arc::new(open))) })
    }

    fn read_into(&self, py: Python<'_>, offset: u64, buffer: &Bound<'_, PyAny>) -> PyResult<()> {
        let memory = PyMemoryView::from(buffer)?.unbind();
        let len = PyBuffer::<u8>::get(memory.bind(py))?.len_bytes();
        let mut raised = None;
        let mut take = |at: usize, piece: &[u8]| {
            let taken = Python::try_attach(|py| {
                let (begin, end) = (at.cast_signed(), (at + piece.len()).cast_signed());
                let range = PySlice::new(py, begin, end, 1);
                let place = memory.bind(py).get_item(range)?;
                PyBuffer::<u8>::get(&place)?.copy_from_slice(py, piece)?;
                py.check_signals()
            });
            if let Some(Ok(())) = taken {
                return Ok(());
            }
            raised = taken.and_then(Result::err);
            Err(Error::cancelled())
        };
        let read = py.detach(|| self.held()?.read(offset, len, &mut take));
        match raised {
            Some(error) => Err(error),
            None => read.map_err(|e| raise(py, e)),
        }
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.held()?.check()).map_err(|e| raise(py, e))
    }

    fn close(&self) {
        drop(self.open.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[pyfunction]
fn read_header(py: Python<'_>, path: PathBuf, max_header_bytes: u64) -> PyResult<String> {
    py.detach(|| header_json(&path, max_header_bytes)).map_err(|e| raise(py, e))
}

fn header_json(path: &Path, max_header_bytes: u64) -> crate::Result<String> {
    let file = LocalFile::open(path, ReadMode::Pread)?;
    let header = format::read(&file, max_header_bytes)?;
    let Identity::File(identity) = file.identity() else {
        return Err(Error::internal("a local file without an identity"));
    };
    let tensors: Vec<_> =
        header.tensors.iter().map(|tensor| tensor_json(&header, tensor)).collect();
    let metadata: serde_json::Map<_, _> =
        header.metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    let json = serde_json::json!({
        "path": path, "size": identity.size, "data_start": header.data_start,
        "container": header.container.name(),
        "identity": identity, "metadata": metadata, "tensors": tensors,
    });
    Ok(json.to_string())
}

/// Memory of the caller's that takes the data of weight files, without their headers.
struct Memory {
    buffers: Vec<Py<PyMemoryView>>,
    lengths: Vec<usize>,
    /// What stands before the data of each file, once the work is known.
    headers: Vec<usize>,
}

impl Memory {
    fn of(py: Python<'_>, buffers: &[Py<PyAny>]) -> PyResult<Self> {
        let views = buffers.iter().map(|buffer| PyMemoryView::from(buffer.bind(py)));
        let buffers = views.map(|view| Ok(view?.unbind())).collect::<PyResult<Vec<_>>>()?;
        let lengths = buffers.iter().map(|view| {
            let buffer = PyBuffer::<u8>::get(view.bind(py))?;
            if buffer.readonly() {
                return Err(PyBufferError::new_err("expected writable memory"));
            }
            Ok(buffer.len_bytes())
        });
        let lengths = lengths.collect::<PyResult<_>>()?;
        Ok(Self { buffers, lengths, headers: Vec::new() })
    }
}

impl Sink for Memory {
    fn begin(&mut self, work: &Work) -> crate::Result<()> {
        let expected: Vec<_> = work.files.iter().map(|file| file.data_len).collect();
        let got: Vec<_> = self.lengths.iter().map(|len| *len as u64).collect();
        if got != expected {
            let what = format!("into: memory of {got:?} bytes, expected {expected:?}");
            return Err(Error::plan(what));
        }
        self.headers = work.files.iter().map(|file| file.header.len()).collect();
        Ok(())
    }

    fn append(&mut self, item: &Item, bytes: &[u8]) -> crate::Result<Option<Pending>> {
        let at = usize::try_from(item.at).unwrap_or(usize::MAX);
        let begin = at.saturating_sub(self.headers[item.file]);
        let filled = Python::try_attach(|py| {
            let (begin, end) = (begin.cast_signed(), (begin + bytes.len()).cast_signed());
            let place =
                self.buffers[item.file].bind(py).get_item(PySlice::new(py, begin, end, 1))?;
            PyBuffer::<u8>::get(&place)?.copy_from_slice(py, bytes)
        });
        match filled {
            Some(Ok(())) => Ok(None),
            Some(Err(error)) => Err(Error::internal(format!("into: cannot be filled: {error}"))),
            None => Err(Error::cancelled()),
        }
    }

    fn commit(&mut self) -> crate::Result<Written> {
        let bytes = self.lengths.iter().map(|len| *len as u64).sum();
        Ok(Written { bytes, ..Written::default() })
    }
}

/// A tensor as it lies in the file; of one of blocks also their format, and its shape in elements.
fn tensor_json(header: &Header, tensor: &Tensor) -> serde_json::Value {
    let Tensor { name, dtype, shape, start, end } = tensor;
    let mut json = serde_json::json!({
        "name": name, "dtype": dtype.name(), "shape": shape, "start": start, "end": end,
    });
    if let Some(blocks) = header.blocks.get(name) {
        json["codec"] = blocks.format.into();
        json["logical"] = blocks.shape.clone().into();
    }
    json
}

#[pyfunction]
#[pyo3(signature = (plan, options, job, progress, describe=None, into=None))]
fn execute(
    py: Python<'_>,
    plan: &str,
    options: &str,
    job: &Bound<'_, Job>,
    progress: Option<Py<PyAny>>,
    describe: Option<Py<PyAny>>,
    into: Option<Vec<Py<PyAny>>>,
) -> PyResult<String> {
    let cancel = Arc::clone(&job.get().cancel);
    let (mut raised, mut misdescribed): (Option<PyErr>, Option<PyErr>) = (None, None);
    let describe = describe.map(|call| -> Box<Describe> {
        let misdescribed = &mut misdescribed;
        Box::new(move |ranks| {
            match Python::try_attach(|py| call.call1(py, (ranks.to_vec(),))?.extract(py)) {
                Some(Ok(metadata)) => return Ok(metadata),
                Some(Err(error)) => *misdescribed = Some(error),
                None => {}
            }
            Err(Error::cancelled())
        })
    });
    let mut memory = into.map(|buffers| Memory::of(py, &buffers)).transpose()?;
    let sink = memory.as_mut().map(|memory| -> &mut dyn Sink { memory });
    let given = Given { sink, describe, ..Given::default() };
    let process = std::process::id();
    let mut observer = |done: u64, total: u64| {
        let looked = Python::try_attach(|py| {
            let look = || {
                py.check_signals()?;
                match &progress {
                    Some(call) => call.call1(py, (done, total))?.is_truthy_or_none(py),
                    None => Ok(true),
                }
            };
            let looked = look();
            if std::process::id() == process { looked } else { Err(leave(py, looked)) }
        });
        match looked {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) | None => Err(Error::cancelled()),
            Some(Err(error)) => {
                raised = Some(error);
                Err(Error::cancelled())
            }
        }
    };
    let result = py.detach(|| exec::execute_with(plan, options, given, &cancel, &mut observer));
    match (raised.or(misdescribed), result) {
        // What the callback or a signal raised is what the caller should see.
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(raise(py, error)),
        (None, Ok(report)) => serde_json::to_string(&report)
            .map_err(|e| raise(py, Error::internal(format!("report: {e}")))),
    }
}

/// Ends a child process that was forked inside `progress` and came back: the workers it would wait
/// for are its parent's. `sys.exit` ends it as it would anywhere; what else was raised is printed.
#[cold]
fn leave(py: Python<'_>, looked: PyResult<bool>) -> PyErr {
    let stray = || {
        let what = "a process forked inside `progress` returned from it, expected it to exit there";
        raise(py, Error::plan(what).hint("end the child with `os._exit` or `sys.exit`"))
    };
    looked.err().unwrap_or_else(stray).print(py); // does not return from `SystemExit`
    let exit = || py.import("os")?.call_method1("_exit", (1,));
    exit().err().unwrap_or_else(stray)
}

/// `progress` cancels by returning `False`; returning nothing goes on.
trait Verdict {
    fn is_truthy_or_none(&self, py: Python<'_>) -> PyResult<bool>;
}

impl Verdict for Py<PyAny> {
    fn is_truthy_or_none(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.is_none(py) || self.bind(py).is_truthy()?)
    }
}

#[pyfunction]
fn build_info() -> String {
    let isas: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    let dtypes: Vec<_> = crate::dtype::Dtype::ALL.iter().map(|dtype| dtype.name()).collect();
    let families = OpSpec::FAMILIES.iter().filter(|(_, inside)| !inside.is_empty());
    let families = families.map(|(name, inside)| (name, BTreeSet::from_iter(*inside)));
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "numerics": crate::NUMERICS,
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "plan_version": PLAN_VERSION,
        "isas": isas,
        "ops": OpSpec::NAMES,
        "families": families.collect::<BTreeMap<_, _>>(),
        "dtypes": dtypes,
    })
    .to_string()
}

/// The exception for an error of the core: one tree, drawn in `submerge.errors`.
#[cold]
fn raise(py: Python<'_>, error: Error) -> PyErr {
    let hint = error.advice().map(str::to_owned);
    let name = match error.kind() {
        Kind::Io { source, path } => return raise_os(py, source, path, &error),
        Kind::Checkpoint => "CheckpointError",
        Kind::Plan => "PlanError",
        Kind::Cancelled => "Cancelled",
        Kind::Internal => "InternalError",
    };
    let build = || {
        let class = py.import("submerge.errors")?.getattr(name)?;
        let keywords = PyDict::new(py);
        keywords.set_item("hint", hint)?;
        Ok(PyErr::from_value(class.call((error.message(),), Some(&keywords))?))
    };
    build().unwrap_or_else(|e: PyErr| e)
}

fn raise_os(py: Python<'_>, source: &std::io::Error, path: &Path, error: &Error) -> PyErr {
    let number = source.raw_os_error().unwrap_or(match source.kind() {
        std::io::ErrorKind::StorageFull => libc::ENOSPC,
        std::io::ErrorKind::NotADirectory => libc::ENOTDIR,
        std::io::ErrorKind::UnexpectedEof => libc::EIO,
        _ => libc::EINVAL,
    });
    // Constructing OSError with a number picks the subclass: FileNotFoundError, PermissionError, ...
    let here = format!("{}: ", path.display());
    let text = error.message().strip_prefix(&here).unwrap_or(error.message()).to_owned();
    let raised = PyOSError::new_err((number, text, path.as_os_str().to_owned()));
    if let Some(hint) = error.advice() {
        let _ = raised.value(py).call_method1("add_note", (format!("hint: {hint}"),));
    }
    raised
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::{Job, Reader, build_info, execute, read_header};
}
