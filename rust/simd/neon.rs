//! NEON: part of every `AArch64` target, so this is the baseline code under its own name.

use super::{Isa, isa};

static NEON: Isa = isa!("neon", "neon");

/// The one table.
pub(super) fn available() -> [&'static Isa; 1] {
    [&NEON]
}
