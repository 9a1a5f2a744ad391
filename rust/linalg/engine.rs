//! What the linear algebra runs on.

use crate::simd::{Body, Isa};

/// Rows of the long side that are worked on at once.
pub const PANEL: usize = 256;

/// A piece of work that no other needs the result of.
pub type Task<'t> = Box<dyn FnOnce() + Send + 't>;

/// Who does pieces of work: in which order and on how many threads decides no bit.
pub trait Team: Sync {
    /// Does them all.
    fn work(&self, tasks: Vec<Task<'_>>);
}

/// The calling thread.
pub struct Alone;

impl Team for Alone {
    fn work(&self, tasks: Vec<Task<'_>>) {
        for task in tasks {
            task();
        }
    }
}

/// The arithmetic, who does it, and who may stop it.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// The arithmetic.
    pub isa: &'static Isa,
    /// Who does it, where it can be cut into pieces.
    pub team: &'a dyn Team,
    /// Asked again and again; once it says so, what is being made is given up and means nothing.
    pub stop: &'a (dyn Fn() -> bool + Sync),
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
        Self { isa, team: &Alone, stop: &|| false }
    }

    pub fn best() -> Self {
        Self::of(Isa::best())
    }
}
