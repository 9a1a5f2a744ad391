//! One module of an adapter.

use std::sync::atomic::Ordering;

use crate::dtype::{Dtype, Float, Overflow};
use crate::error::{Error, Result, quoted};
use crate::linalg::engine::Engine;
use crate::linalg::factors::{Goal, factors};
use crate::linalg::gemm::View;
use crate::linalg::recompress::{apart, recompress};
use crate::linalg::residual::{Product, energy, residual};
use crate::memory;
use crate::plan::{
    FactorsSpec, MadeSpec, MatrixSpec, ModuleSpec, OutputSpec, ProductsSpec, SharedSpec,
};
use crate::report::ModuleReport;

/// An output that is held.
pub(super) struct Held<'a> {
    pub(super) spec: &'a OutputSpec,
    pub(super) float: Float,
    pub(super) values: Vec<f32>,
    /// How many numbers have not come yet.
    pub(super) missing: usize,
}

/// What is written of a module, and what there is to say of it.
pub(super) struct Made {
    pub(super) report: ModuleReport,
    pub(super) tensors: Vec<Tensor>,
}

/// Name, dtype, shape and bytes.
type Tensor = (String, Dtype, Vec<u64>, Vec<u8>);

/// Make a module of its outputs.
pub(super) fn make(engine: &Engine, spec: &ModuleSpec, held: Vec<Held>) -> Result<Made> {
    let made = match &spec.made {
        MadeSpec::Difference {} | MadeSpec::Whole {} => differing(&spec.name, &held),
        MadeSpec::Matrix(of) => matrix(engine, &spec.name, of, &held),
        MadeSpec::Products(of) => sum(engine, &spec.name, of, held),
    }?;
    if engine.stopped() {
        return Err(Error::cancelled());
    }
    Ok(made)
}

/// How long what a module adds is, and nothing of it.
pub(super) fn measure(engine: &Engine, spec: &ModuleSpec, mut held: Vec<Held>) -> Result<Made> {
    let name = &spec.name;
    let beside = |of: Option<Held>| of.map_or(Ok(0.0), |of| sum_of_squares(name, &of.values));
    let norm2 = match &spec.made {
        MadeSpec::Difference {} | MadeSpec::Whole {} => return differing(name, &held).map(bare),
        MadeSpec::Matrix(of) => {
            let bias = beside(if of.bias { held.pop() } else { None })?;
            bias + held
                .iter()
                .map(|held| sum_of_squares(name, &held.values))
                .sum::<Result<f64>>()?
        }
        MadeSpec::Products(of) => {
            let bias = beside(if of.bias { held.pop() } else { None })?;
            let beside = side_by_side(engine, name, of, held)?;
            bias + length(engine, name, &beside)?
        }
    };
    if engine.stopped() {
        return Err(Error::cancelled());
    }
    Ok(Made { report: report(name, 0, norm2, 0.0), tensors: Vec::new() })
}

fn bare(made: Made) -> Made {
    Made { tensors: Vec::new(), ..made }
}

/// The last of the outputs, unless the first is zero.
fn differing(name: &str, held: &[Held]) -> Result<Made> {
    let ([first, .., last] | [first @ last]) = held else {
        return Err(Error::internal("no output"));
    };
    let norm2 = sum_of_squares(name, &first.values)?;
    sum_of_squares(name, &last.values)?;
    let tensors = if norm2 > 0.0 { vec![plain(last)] } else { Vec::new() };
    Ok(Made { report: report(name, 0, norm2, 0.0), tensors })
}

fn sum_of_squares(name: &str, values: &[f32]) -> Result<f64> {
    let sum: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if sum.is_finite() { Ok(sum) } else { Err(not_finite(name)) }
}

/// An output as it is.
fn plain(Held { spec, float, values, .. }: &Held) -> Tensor {
    let encode = |x: &f32| float.encode(Overflow::Saturate, *x).to_le_bytes();
    let bytes = values.iter().flat_map(|x| encode(x).into_iter().take(float.bytes()));
    (spec.name.clone(), spec.dtype, spec.shape.clone(), bytes.collect())
}

fn report(name: &str, rank: usize, norm2: f64, residual2: f64) -> ModuleReport {
    ModuleReport { name: name.to_owned(), rank, norm2, residual2 }
}

/// Of what is zero nothing is written.
fn nothing(name: &str) -> Made {
    Made { report: report(name, 0, 0.0, 0.0), tensors: Vec::new() }
}

fn matrix(engine: &Engine, name: &str, of: &MatrixSpec, held: &[Held]) -> Result<Made> {
    let [delta, bias @ ..] = held else { return Err(Error::internal("no matrix")) };
    let columns = delta.spec.shape[1] as usize;
    let norm2 = energy(engine, &delta.values, columns);
    if !norm2.is_finite() {
        return Err(not_finite(name));
    }
    let mut made = nothing(name);
    if norm2 > 0.0 {
        let view = View::new(&delta.values, columns);
        let found = factors(engine, view, goal(&of.factors, norm2), of.factors.key);
        let found = found.ok_or_else(|| given_up(engine, name))?;
        let written = Written::of(engine, name, &of.factors, found.product)?;
        let residual2 = residual(engine, &delta.values, &written.product);
        made = written.made(name, &of.factors, norm2, residual2);
    }
    let shape = (delta.spec.shape[0] as usize, columns);
    biased(engine, made, (&of.factors, shape), bias.first())
}

/// What was made with the bias beside it, if that is not zero; where nothing was made, beside factors of
/// rank 1 that are zero.
fn biased(
    engine: &Engine,
    mut made: Made,
    (spec, (rows, columns)): (&FactorsSpec, (usize, usize)),
    bias: Option<&Held>,
) -> Result<Made> {
    let Some(bias) = bias else { return Ok(made) };
    let norm2 = sum_of_squares(&made.report.name, &bias.values)?;
    if norm2 > 0.0 {
        if made.report.rank == 0 {
            let zero = Product { up: vec![0.0; rows], down: vec![0.0; columns], rank: 1 };
            let written = Written::of(engine, &made.report.name, spec, zero)?;
            made = written.made(&made.report.name, spec, 0.0, 0.0);
        }
        made.report.norm2 += norm2;
        made.tensors.push(plain(bias));
    }
    Ok(made)
}

fn goal(spec: &FactorsSpec, norm2: f64) -> Goal {
    Goal { rank: spec.rank, enough: spec.energy.map_or(f64::INFINITY, |share| share * norm2) }
}

/// Why there are no factors.
#[cold]
fn given_up(engine: &Engine, name: &str) -> Error {
    match engine.lacking.load(Ordering::Relaxed) {
        bytes @ 1.. => memory::none_left(bytes),
        0 if engine.stopped() => Error::cancelled(),
        0 => not_finite(name),
    }
}

fn sum(engine: &Engine, name: &str, spec: &ProductsSpec, mut held: Vec<Held>) -> Result<Made> {
    let bias = if spec.bias { held.pop() } else { None };
    let columns = held.get(1).map_or(0, |down| down.spec.shape[1] as usize);
    let beside = side_by_side(engine, name, spec, held)?;
    let made = summed(engine, name, &spec.factors, &beside)?;
    let shape = (spec.rows as usize, columns);
    biased(engine, made, (&spec.factors, shape), bias.as_ref())
}

fn summed(engine: &Engine, name: &str, spec: &FactorsSpec, beside: &Product) -> Result<Made> {
    if beside.rank == 0 {
        return Ok(nothing(name));
    }
    if beside.rank <= spec.rank && spec.energy.is_none() {
        let norm2 = length(engine, name, beside)?;
        if norm2 == 0.0 {
            return Ok(nothing(name));
        }
        let written = Written::of(engine, name, spec, beside.clone())?;
        let residual2 = apart(engine, beside, Some(&written.product));
        let residual2 = residual2.ok_or_else(|| given_up(engine, name))?;
        return Ok(written.made(name, spec, norm2, residual2));
    }
    let found = recompress(engine, beside, |norm2| goal(spec, norm2));
    let (found, norm2) = found.ok_or_else(|| given_up(engine, name))?;
    if norm2 == 0.0 {
        return Ok(nothing(name));
    }
    let written = Written::of(engine, name, spec, found.product.clone())?;
    // What was cut off stands at right angles to what is written, but for rounding of rounding.
    let cut = (norm2 - found.squares.iter().sum::<f64>()).max(0.0);
    let rounded = apart(engine, &found.product, Some(&written.product));
    let residual2 = cut + rounded.ok_or_else(|| given_up(engine, name))?;
    Ok(written.made(name, spec, norm2, residual2))
}

/// The sum of squares of a product.
fn length(engine: &Engine, name: &str, of: &Product) -> Result<f64> {
    if of.rank == 0 {
        return Ok(0.0);
    }
    apart(engine, of, None).ok_or_else(|| given_up(engine, name))
}

/// What the products become together: one product, of rank 0 where nothing is left.
fn side_by_side(
    engine: &Engine,
    name: &str,
    spec: &ProductsSpec,
    held: Vec<Held>,
) -> Result<Product> {
    if held.iter().flat_map(|held| &held.values).any(|x| !x.is_finite()) {
        return Err(not_finite(name));
    }
    let beside = stacked(spec, &held);
    let mut ranks = held.chunks_exact(2).map(|pair| pair[1].spec.shape[0] as usize);
    let Some(SharedSpec { vote, weights, each }) = &spec.shared else {
        drop(held);
        return Ok(without_zeros(beside));
    };
    let ranks: Vec<_> = each.iter().map(|n| ranks.by_ref().take(*n).sum()).collect();
    drop(held);
    let made = vote.of_products(engine, weights, (&beside, &ranks));
    made.ok_or_else(|| given_up(engine, name))
}

/// The same product without columns of `up` that are zero: so what a form stacks block by block is, one
/// by one, no larger than it was.
fn without_zeros(product: Product) -> Product {
    let Product { up, down, rank } = &product;
    let mut used = vec![false; *rank];
    for row in up.chunks_exact(*rank) {
        used.iter_mut().zip(row).for_each(|(used, x)| *used |= *x != 0.0);
    }
    let left = used.iter().filter(|used| **used).count();
    if left == *rank {
        return product;
    }
    let up = up.iter().zip(used.iter().cycle()).filter(|(_, used)| **used).map(|(x, _)| *x);
    let rows = down.chunks_exact(down.len() / rank).zip(&used).filter(|(_, used)| **used);
    let down = rows.flat_map(|(row, _)| row).copied().collect();
    Product { up: up.collect(), down, rank: left }
}

/// All `up` beside each other, each in the rows it adds to, and all `down` below each other, each
/// times its scale.
fn stacked(spec: &ProductsSpec, held: &[Held]) -> Product {
    let pairs = || held.chunks_exact(2).zip(&spec.products);
    let rank_of = |pair: &[Held]| pair[1].spec.shape[0] as usize;
    let rank = pairs().map(|(pair, _)| rank_of(pair)).sum();
    let mut up = vec![0.0; spec.rows as usize * rank];
    let mut down = Vec::with_capacity(held.iter().skip(1).step_by(2).map(|d| d.values.len()).sum());
    let mut column = 0;
    for (pair, product) in pairs() {
        let own = rank_of(pair);
        let rows = up.chunks_exact_mut(rank).skip(product.first as usize);
        for (row, from) in rows.zip(pair[0].values.chunks_exact(own)) {
            row[column..column + own].copy_from_slice(from);
        }
        column += own;
        let scale = product.scale as f32;
        down.extend(pair[1].values.iter().map(|x| x * scale));
    }
    Product { up, down, rank }
}

/// Factors in the dtype they are written in, and what they are when they are read again.
struct Written {
    up: Vec<u8>,
    down: Vec<u8>,
    product: Product,
}

impl Written {
    fn of(engine: &Engine, name: &str, spec: &FactorsSpec, mut product: Product) -> Result<Self> {
        let float = spec.dtype.float().ok_or_else(|| Error::internal("no float"))?;
        let [up, down] = [&mut product.up, &mut product.down].map(|x| round(engine, float, x));
        let mut numbers = product.up.iter().chain(&product.down);
        if !numbers.all(|x| x.is_finite()) {
            let what = format!("{}: factors too large for {}", quoted(name), spec.dtype.name());
            return Err(Error::plan(format!("{what}, expected all within its range"))
                .hint("bf16 and f32 have the range: `--dtype bf16`"));
        }
        if spec.alpha.iter().any(|alpha| !number(alpha.scale, product.rank).is_finite()) {
            let what = format!("{}: an alpha too large for F32", quoted(name));
            return Err(Error::plan(format!("{what}, expected one that it holds"))
                .hint("the scale of the adapter is damaged"));
        }
        Ok(Self { up, down, product })
    }

    fn made(self, name: &str, spec: &FactorsSpec, norm2: f64, residual2: f64) -> Made {
        let Product { up, down, rank } = &self.product;
        let [rows, columns] = [up, down].map(|factor| (factor.len() / rank) as u64);
        let down = (spec.down.clone(), spec.dtype, vec![*rank as u64, columns], self.down);
        let up = (spec.up.clone(), spec.dtype, vec![rows, *rank as u64], self.up);
        let alpha = spec.alpha.iter().map(|alpha| {
            let number = number(alpha.scale, *rank);
            (alpha.name.clone(), Dtype::F32, vec![], number.to_le_bytes().to_vec())
        });
        let tensors = [down, up].into_iter().chain(alpha).collect();
        Made { report: report(name, *rank, norm2, residual2), tensors }
    }
}

/// The alpha that is so many times the rank.
fn number(scale: f64, rank: usize) -> f32 {
    (rank as f64 * scale) as f32
}

/// The bytes of numbers, which become what these say.
fn round(engine: &Engine, float: Float, values: &mut [f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * float.bytes()];
    engine.isa.encode(float, Overflow::Saturate, values, &mut bytes);
    engine.isa.decode(float, &bytes, values);
    bytes
}

/// Numbers that are none.
#[cold]
fn not_finite(name: &str) -> Error {
    let what = format!("{}: values that are not finite, expected numbers", quoted(name));
    Error::plan(what)
        .hint("a model or an adapter holds NaN or infinities there, or sums beyond f32")
}
