//! NEON: part of every `AArch64` target, so this is the baseline code under its own name.

use std::arch::asm;

use super::isa::{Isa, isa};

static NEON: Isa = isa!("neon", "neon");

/// The one table.
pub(super) fn available() -> [&'static Isa; 1] {
    [&NEON]
}

/// Sets the control register a process starts with: round to nearest, keep subnormals, no traps.
pub(super) fn standard_arithmetic() {
    // SAFETY: writes the floating-point control register of this thread alone.
    unsafe { asm!("msr fpcr, xzr", options(nomem, nostack)) }
}
