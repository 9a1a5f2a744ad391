//! An adapter that a plan makes, checked against the outputs it is made of.

use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::kernels::matrix::vote_bytes;
use crate::linalg::{factors, recompress};
use crate::plan::{
    AdapterSpec, FactorsSpec, MadeSpec, MatrixSpec, OutputSpec, Plan, ProductSpec, SharedSpec,
};

/// Bytes that the largest module takes: its outputs, what is made of them, and what is written.
pub(super) fn check(spec: &AdapterSpec, plan: &Plan) -> Result<u64> {
    if plan.files.len() != 1 {
        let what = format!("plan adapter: {} files, expected one", plan.files.len());
        return Err(Error::plan(what));
    }
    let mut outputs = plan.outputs.iter();
    let mut bytes = 0;
    for module in &spec.modules {
        let here = format!("plan module {}", quoted(&module.name));
        let wrong = |what: &str| Error::plan(format!("{here}: {what}"));
        let mut next = || outputs.next().ok_or_else(|| wrong("no output is left for it"));
        bytes = bytes.max(match &module.made {
            MadeSpec::Difference {} => plain(next()?, &wrong)?,
            MadeSpec::Whole {} => {
                let (difference, whole) = (next()?, next()?);
                if difference.shape != whole.shape {
                    return Err(wrong("a difference of another shape, expected the same"));
                }
                2 * plain(difference, &wrong)?.max(plain(whole, &wrong)?)
            }
            MadeSpec::Matrix(MatrixSpec { factors: spec, bias }) => {
                let shape = matrix(next()?).ok_or_else(|| wrong("expected a matrix in F32"))?;
                check_factors(spec, shape, shape.0.min(shape.1)).map_err(|what| wrong(&what))?;
                if *bias {
                    plain(next()?, &wrong)?;
                }
                let thin = 4 * (shape.0 + shape.1).saturating_mul(spec.rank as u64);
                let made = factors::bytes(shape, spec.rank);
                4 * shape.0.saturating_mul(shape.1) + made + 3 * thin
            }
            MadeSpec::Products(spec) => {
                let (mut whole, mut rank) = (None, 0);
                for ProductSpec { scale, first } in &spec.products {
                    let pair = (matrix(next()?), matrix(next()?));
                    let (Some(up), Some(down)) = pair else {
                        return Err(wrong("expected matrices in F32"));
                    };
                    let shape = (spec.rows, down.1);
                    if up.1 != down.0 || *whole.get_or_insert(shape) != shape {
                        return Err(wrong("factors of different shapes, expected the same"));
                    }
                    if first.checked_add(up.0).is_none_or(|end| end > spec.rows) {
                        return Err(wrong("a product outside of the sum's rows"));
                    }
                    if !(*scale as f32).is_finite() {
                        return Err(wrong(&format!("scale {scale}, expected a finite f32")));
                    }
                    rank += up.1;
                }
                if spec.bias {
                    plain(next()?, &wrong)?;
                }
                let shape = whole.ok_or_else(|| wrong("no products, expected one"))?;
                check_factors(&spec.factors, shape, rank).map_err(|what| wrong(&what))?;
                let sum = usize::try_from(rank).map_err(|_| wrong("a rank beyond memory"))?;
                let voting = match &spec.shared {
                    None => 0,
                    Some(shared) => {
                        check_shared(shared, spec.products.len()).map_err(|what| wrong(&what))?;
                        vote_bytes(shape, shared.each.len(), rank)
                    }
                };
                let thin = 2 * 4 * (shape.0 + shape.1).saturating_mul(rank);
                thin + recompress::bytes(shape, sum).max(voting)
            }
        });
    }
    match outputs.next() {
        None => Ok(bytes),
        Some(output) => {
            let what = format!("plan adapter: no module takes output {}", quoted(&output.name));
            Err(Error::plan(what))
        }
    }
}

/// Bytes of numbers that are written as they are, and of what is written.
fn plain(output: &OutputSpec, wrong: &dyn Fn(&str) -> Error) -> Result<u64> {
    output.dtype.float().ok_or_else(|| wrong("expected a float dtype"))?;
    Ok(output.shape.iter().fold(8, |bytes: u64, n| bytes.saturating_mul(*n)))
}

/// Its shape, if it is a matrix with elements.
fn matrix(output: &OutputSpec) -> Option<(u64, u64)> {
    match output.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 && output.dtype == Dtype::F32 => {
            Some((rows, columns))
        }
        _ => None,
    }
}

fn check_shared(shared: &SharedSpec, products: usize) -> std::result::Result<(), String> {
    let SharedSpec { vote, weights, each } = shared;
    let sum = each.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n));
    if sum != Some(products) || each.contains(&0) || each.len() != weights.len() {
        return Err(format!(
            "{each:?} of {products} products with {} weights, expected a part of the products and a \
             weight for each adapter",
            weights.len()
        ));
    }
    vote.check_with(weights)
}

fn check_factors(
    spec: &FactorsSpec,
    (rows, columns): (u64, u64),
    most: u64,
) -> std::result::Result<(), String> {
    if spec.rank == 0 || spec.rank as u64 > most {
        return Err(format!("rank {} of {rows} x {columns}, expected 1 to {most}", spec.rank));
    }
    if spec.energy.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return Err("an energy out of range, expected more than 0 and at most 1".to_owned());
    }
    let written = spec.dtype.float().ok_or("factors of no float dtype, expected one")?;
    if written.bytes() < 2 {
        return Err(format!("factors in {}, expected F32, F16 or BF16", spec.dtype.name()));
    }
    Ok(())
}
