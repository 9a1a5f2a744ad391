//! What the linear algebra runs on.

use crate::simd::{Body, Isa};

/// Rows of the long side that are worked on at once.
pub const PANEL: usize = 256;

/// The arithmetic, and who may stop it.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// The arithmetic.
    pub isa: &'static Isa,
    /// Asked again and again; once it says so, what is being made is given up and means nothing.
    pub stop: &'a dyn Fn() -> bool,
}

impl Engine<'_> {
    /// Runs a loop.
    pub fn run<B: Body>(&self, body: B) -> B::Output {
        self.isa.run(body)
    }

    /// Whether what is being made is to be given up.
    #[must_use]
    pub fn stopped(&self) -> bool {
        (self.stop)()
    }
}

#[cfg(test)]
impl Engine<'static> {
    pub fn of(isa: &'static Isa) -> Self {
        Self { isa, stop: &|| false }
    }

    pub fn best() -> Self {
        Self::of(Isa::best())
    }
}
