//! A file of thin factors, made of the outputs of a plan as they come: one matrix is held at a time.
//!
//! Ranks may be known only when the last matrix was factored, and the header stands first: so room is
//! left for the longest header there can be, and what it does not need is filled up with spaces.

use std::collections::BTreeMap;

use super::contract::{Sink, Written};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::codec::Block;
use crate::format::safetensors::{self, Tensor};
use crate::io::admission::Request;
use crate::io::transaction::Transaction;
use crate::io::unpublished::{Pending, Unpublished};
use crate::linalg::engine::Engine;
use crate::memory;
use crate::plan::{
    AdapterSpec, FactorsSpec, MadeSpec, Mode, ModuleSpec, Options, OutputSpec, Plan,
};
use crate::report::ModuleReport;
use crate::resolve::Work;
use crate::schedule::Item;

mod module;

use module::{Held, Made};

/// Asked for the metadata of an adapter once the rank of each of its modules is known; 0 is the rank of
/// what is no product, and of what is left out.
pub type Describe<'a> = dyn FnMut(&[usize]) -> Result<BTreeMap<String, String>> + Send + 'a;

/// What an adapter is made with.
pub struct Means<'a> {
    /// The arithmetic.
    pub engine: Engine<'a>,
    /// What it says of itself; what the plan says if there is none.
    pub describe: Option<Box<Describe<'a>>>,
}

/// Makes the modules of an adapter one after the other.
pub(super) struct Adapter<'a> {
    plan: &'a Plan,
    means: Means<'a>,
    modules: std::slice::Iter<'a, ModuleSpec>,
    outputs: std::slice::Iter<'a, OutputSpec>,
    /// What the module that is next is made of, as far as it has come.
    held: Vec<Held<'a>>,
    /// `None` once it is committed.
    open: Option<(Transaction<'a>, Unpublished)>,
    /// Whether the modules are measured alone and nothing is written.
    measures: bool,
    /// Bytes that are left for the header.
    room: usize,
    tensors: Vec<Tensor>,
    made: Vec<ModuleReport>,
}

impl<'a> Adapter<'a> {
    pub(super) fn begin(
        plan: &'a Plan,
        spec: &'a AdapterSpec,
        work: &'a Work,
        options: &Options,
        means: Means<'a>,
    ) -> Result<Self> {
        let measures = matches!(options.mode, Mode::Measure);
        let (room, open) = if measures {
            (0, None)
        } else {
            let (room, transaction, file) = create(plan, spec, work, options, means.engine.stop)?;
            (room, Some((transaction, file)))
        };
        let mut adapter = Self {
            plan,
            means,
            modules: spec.modules.iter(),
            outputs: plan.outputs.iter(),
            held: Vec::new(),
            open,
            measures,
            room,
            tensors: Vec::new(),
            made: Vec::new(),
        };
        adapter.hold_next()?;
        Ok(adapter)
    }

    /// Make room for the outputs of the next module.
    fn hold_next(&mut self) -> Result<()> {
        self.held = Vec::new(); // given back before the next are asked for
        let Some(module) = self.modules.as_slice().first() else { return Ok(()) };
        let count = module.made.outputs();
        for spec in self.outputs.by_ref().take(count) {
            let elements = spec.shape.iter().product::<u64>() as usize;
            let mut values = Vec::new();
            memory::resize(&mut values, elements)?;
            let float = spec.dtype.float().ok_or_else(|| Error::internal("no float"))?;
            self.held.push(Held { spec, float, values, missing: elements });
        }
        Ok(())
    }

    /// Take as many of the bytes as the module that is next wants; returns how many.
    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let Some(held) = self.held.iter_mut().find(|held| held.missing > 0) else { return Ok(0) };
        let size = held.float.bytes();
        let count = held.missing.min(bytes.len() / size);
        if count == 0 {
            return Err(Error::internal("a cut inside an element"));
        }
        let at = held.values.len() - held.missing;
        let values = &mut held.values[at..at + count];
        self.means.engine.isa.decode(held.float, &bytes[..count * size], values);
        held.missing -= count;
        Ok(count * size)
    }

    /// Make modules for as long as all they need is there; outputs without elements never come.
    fn make(&mut self) -> Result<()> {
        while self.held.iter().all(|held| held.missing == 0) {
            let Some(module) = self.modules.next() else { return Ok(()) };
            let engine = &self.means.engine;
            let held = std::mem::take(&mut self.held);
            let Made { report, tensors } = if self.measures {
                module::measure(engine, module, held)?
            } else {
                module::make(engine, module, held)?
            };
            for (name, dtype, shape, bytes) in tensors {
                let start = self.tensors.last().map_or(0, |tensor| tensor.end);
                let end = start + bytes.len() as u64;
                self.tensors.push(Tensor { name, dtype, shape, start, end });
                let Some((_, file)) = &mut self.open else { return Err(committed()) };
                for piece in bytes.chunks(PIECE) {
                    if let Some(pending) = file.append(piece)? {
                        pending.wait()?;
                    }
                }
            }
            self.made.push(report);
            self.hold_next()?;
        }
        Ok(())
    }
}

/// The file that is to be written, begun with room for the longest header there can be.
fn create<'a>(
    plan: &'a Plan,
    spec: &'a AdapterSpec,
    work: &'a Work,
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<(usize, Transaction<'a>, Unpublished)> {
    let [out] = &plan.files[..] else { return Err(Error::internal("not one file")) };
    let longest = longest(spec, plan);
    let room = header(&out.metadata, &longest)?.len();
    let size = room as u64 + longest.last().map_or(0, |tensor| tensor.end);
    let request = Request {
        target: &plan.target,
        overwrite: options.overwrite,
        inputs: work.identities(),
        weights: vec![(out.path.as_str(), size)],
        texts: &plan.texts,
        copies: &plan.copies,
    };
    let mut transaction = Transaction::begin(request, options.cache)?;
    transaction.take_over(stop)?;
    let mut file = transaction.create(&out.path)?;
    let _ = file.append(&vec![b' '; room])?;
    Ok((room, transaction, file))
}

/// Bytes that are written before the device is waited for.
const PIECE: usize = 1 << 20;

impl Sink for Adapter<'_> {
    fn append(&mut self, _: &Item, mut bytes: &[u8]) -> Result<Option<Pending>> {
        self.make()?;
        while !bytes.is_empty() {
            let taken = self.take(bytes)?;
            if taken == 0 {
                return Err(Error::internal("more outputs than modules"));
            }
            bytes = &bytes[taken..];
            self.make()?;
        }
        Ok(None)
    }

    fn commit(&mut self) -> Result<Written> {
        self.make()?;
        if self.modules.len() > 0 {
            return Err(Error::internal("a module whose outputs never came"));
        }
        if self.measures {
            return Ok(Written { modules: std::mem::take(&mut self.made), ..Written::default() });
        }
        if self.tensors.is_empty() {
            let what = "adapter: every difference is zero, expected one that is not";
            return Err(Error::plan(what).hint("the models are equal, or the adapters cancel out"));
        }
        let out = &self.plan.files[0];
        let ranks: Vec<_> = self.made.iter().map(|module| module.rank).collect();
        let metadata = match &mut self.means.describe {
            Some(describe) => describe(&ranks)?,
            None => out.metadata.clone(),
        };
        let mut bytes = header(&metadata, &self.tensors)?;
        if bytes.len() > self.room {
            let (got, room) = (bytes.len(), self.room);
            return Err(Error::internal(format!("a header of {got} bytes, room for {room}")));
        }
        bytes.resize(self.room, b' ');
        bytes[..8].copy_from_slice(&(self.room as u64 - 8).to_le_bytes());
        let (mut transaction, mut file) = self.open.take().ok_or_else(committed)?;
        file.rewrite_start(&bytes)?;
        let written = file.written();
        transaction.finished(&out.path, file)?;
        let notes = transaction.commit()?;
        Ok(Written { bytes: written, notes, modules: std::mem::take(&mut self.made) })
    }
}

fn header(metadata: &BTreeMap<String, String>, tensors: &[Tensor]) -> Result<Vec<u8>> {
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    safetensors::encode(&metadata, tensors)
}

/// The tensors if every rank is as large as it may be, in the order in which modules have them: where
/// one is smaller or left out, none begins later.
fn longest(spec: &AdapterSpec, plan: &Plan) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut push = |name: &str, dtype: Dtype, shape: Vec<u64>| {
        let start = tensors.last().map_or(0, |tensor| tensor.end);
        let end = start + Block::of(dtype).len(shape.iter().product()).unwrap_or(0);
        tensors.push(Tensor { name: name.to_owned(), dtype, shape, start, end });
    };
    let mut outputs = plan.outputs.iter();
    for module in &spec.modules {
        let taken: Vec<_> = outputs.by_ref().take(module.made.outputs()).collect();
        let (Some(first), last) = (taken.first(), taken.last()) else { break };
        let columns = |at: usize| taken.get(at).map_or(0, |output| output.shape[1]);
        let (rows, factors, beside) = match &module.made {
            MadeSpec::Difference {} | MadeSpec::Whole {} => (0, None, last),
            MadeSpec::Matrix(spec) => {
                (first.shape[0], Some((&spec.factors, columns(0))), last.filter(|_| spec.bias))
            }
            MadeSpec::Products(spec) => {
                (spec.rows, Some((&spec.factors, columns(1))), last.filter(|_| spec.bias))
            }
        };
        if let Some((FactorsSpec { up, down, alpha, dtype, rank, .. }, columns)) = factors {
            push(down, *dtype, vec![*rank as u64, columns]);
            push(up, *dtype, vec![rows, *rank as u64]);
            if let Some(alpha) = alpha {
                push(&alpha.name, Dtype::F32, Vec::new());
            }
        }
        if let Some(spec) = beside {
            push(&spec.name, spec.dtype, spec.shape.clone());
        }
    }
    tensors
}

#[cold]
fn committed() -> Error {
    Error::internal("the output is committed")
}
