//! The loops of one kernel, written beside it and compiled for every instruction set.

use super::isa::Isa;

/// A loop that vectorises. `run` must be `#[inline(always)]`, and everything it calls too: code
/// that is not inlined is compiled for the baseline.
pub trait Body {
    /// What it gives.
    type Output;

    /// The loop.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// Runs a loop with this instruction set; every table gives the same bits.
    pub fn run<B: Body>(&self, body: B) -> B::Output {
        #[cfg(target_arch = "x86_64")]
        match self.name() {
            // SAFETY: an `Isa` is only handed out after its instruction set was detected.
            "avx2" => return unsafe { avx2(body) },
            // SAFETY: as above.
            "avx512" => return unsafe { avx512(body) },
            _ => {}
        }
        body.run()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<B: Body>(body: B) -> B::Output {
    body.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<B: Body>(body: B) -> B::Output {
    body.run()
}
