//! How the operands of a unit are combined: the table of what a plan may name.

use serde::Deserialize;

use crate::kernels::adaptive::Adaptive;
use crate::kernels::combine::rows::EachRow;
use crate::kernels::combine::{Combine, Weighted};
use crate::kernels::delta::{Delta, Sparsifier};
use crate::kernels::family::family;
use crate::kernels::linear::Linear;
use crate::kernels::matrix::{Making, Matrix, Solve};
use crate::kernels::pointwise::Pointwise;
use crate::kernels::runner::{Run, runner};
use crate::kernels::smooth::Smooth;
use crate::kernels::tile::Whole;
use crate::stats::Analyze;

/// How a unit is filled.
#[derive(Debug)]
pub enum Action {
    /// The bytes of the only operand.
    Copy,
    /// The bytes of the first operand, to which all others must be equal.
    Same,
    /// A formula in f32, rounded once.
    Compute(Box<dyn Run>),
    /// The same of a whole matrix, which is solved first.
    Solve(Box<dyn Solve>),
    /// The side tensor of this number of the output it stands beside.
    Beside(usize),
    /// These bytes.
    Text(String),
    /// Nothing is made of the operands; they are seen beside each other.
    Analyze(Analyze),
}

family! {
    /// An operation, with its arguments.
    OpSpec[Operation]: action(operation, whole: Whole) -> Acting { operation.action(whole) }
    /// One operand: its bytes if the dtypes are equal, else decoded and rounded once.
    "copy" => Copy(Copy),
    /// Operands that must be equal byte for byte; the first is copied.
    "same" => Same(Same),
    /// What an output's codec wants beside it, as it was made for that.
    "beside" => Beside(Beside),
    /// A text, as its bytes in UTF-8.
    "text" => Text(Text),
    /// A weighted sum.
    "linear" => Linear(Linear),
    /// A weighted sum whose weights follow from norms and angles.
    "combine" => Combine(Combine),
    /// The same, row by row.
    "rows" => Rows(Rows),
    /// What models add to a base.
    "delta" => Delta(Delta<Sparsifier>),
    /// A formula of single elements.
    "pointwise" => Pointwise(Pointwise),
    /// A formula of single elements, with numbers that follow from the whole unit.
    "adaptive" => Adaptive(Adaptive),
    /// A formula of an element and its neighbours.
    "smooth" => Smooth(Smooth),
    /// A formula of whole matrices.
    "matrix" => Matrix(Matrix<Making>),
    /// Nothing is made: two models are seen beside each other.
    "analyze" => Analyze(Analyze),
}

/// The bytes of the only operand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {}

/// The bytes of all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Same {}

/// A side tensor.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Index into the outputs: of the one it stands beside.
    pub output: usize,
    /// Which of the tensors that its codec wants.
    pub side: usize,
}

/// A text that is a tensor of U8.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// What it says.
    pub text: String,
}

/// A rule for weights, with each row of the unit as the vector.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Rows(Combine);

/// How a unit is filled, or what is wrong with the arguments.
pub type Acting = Result<Action, String>;

/// Makes of arguments what fills a unit of this size.
trait Operation {
    /// What a plan may name inside of it.
    const INSIDE: &'static [&'static str] = &[];

    fn action(self, whole: Whole) -> Acting;
}

impl Operation for Copy {
    fn action(self, _: Whole) -> Acting {
        Ok(Action::Copy)
    }
}

impl Operation for Same {
    fn action(self, _: Whole) -> Acting {
        Ok(Action::Same)
    }
}

impl Operation for Beside {
    fn action(self, _: Whole) -> Acting {
        Ok(Action::Beside(self.side))
    }
}

impl Operation for Text {
    fn action(self, _: Whole) -> Acting {
        Ok(Action::Text(self.text))
    }
}

impl Operation for Linear {
    fn action(self, whole: Whole) -> Acting {
        runner(self, whole).map(Action::Compute)
    }
}

impl Operation for Combine {
    const INSIDE: &'static [&'static str] = Self::NAMES;

    fn action(self, whole: Whole) -> Acting {
        runner(Weighted(self.rule()), whole).map(Action::Compute)
    }
}

impl Operation for Rows {
    const INSIDE: &'static [&'static str] = Combine::NAMES;

    fn action(self, whole: Whole) -> Acting {
        runner(EachRow(self.0.rule()), whole).map(Action::Compute)
    }
}

impl Operation for Delta<Sparsifier> {
    const INSIDE: &'static [&'static str] = Sparsifier::NAMES;

    fn action(self, whole: Whole) -> Acting {
        self.runner(whole).map(Action::Compute)
    }
}

impl Operation for Pointwise {
    const INSIDE: &'static [&'static str] = Self::NAMES;

    fn action(self, whole: Whole) -> Acting {
        self.runner(whole).map(Action::Compute)
    }
}

impl Operation for Adaptive {
    const INSIDE: &'static [&'static str] = Self::NAMES;

    fn action(self, whole: Whole) -> Acting {
        self.runner(whole).map(Action::Compute)
    }
}

impl Operation for Smooth {
    fn action(self, whole: Whole) -> Acting {
        runner(self, whole).map(Action::Compute)
    }
}

impl Operation for Matrix<Making> {
    const INSIDE: &'static [&'static str] = Making::NAMES;

    fn action(self, whole: Whole) -> Acting {
        self.solver(whole).map(Action::Solve)
    }
}

impl Operation for Analyze {
    fn action(self, whole: Whole) -> Acting {
        self.check(whole.operands)?;
        Ok(Action::Analyze(self))
    }
}
