//! The largest magnitudes of a stream, exactly, without holding the stream.
//!
//! "The `rank` largest" are the first `rank` elements in the order of falling magnitude, and of
//! rising index among equals: there is always exactly one such set. The bits of an f32 without its
//! sign are ordered like its magnitude (NaN above infinity), so the set is found by counting bits:
//!
//! 1. Short runs all over the stream are sampled: they tell between which two magnitudes the last
//!    element of the set should lie. A short stream is its own sample, and all is known.
//! 2. All magnitudes above the two are counted, those between them one by one. If the guess missed,
//!    all are counted by their upper bits, and then those in the right bin by their lower ones.
//! 3. If only a part of those that equal the smallest magnitude of the set belongs to it, the place
//!    of the last is searched where it must be: what was counted is kept item by item.
//!
//! The guess decides how many passes there are, never what is found.

mod sample;
mod search;
mod tally;
mod target;

pub use sample::Sample;
pub use search::Search;
pub use target::{Cut, LONGEST, PASSES, PASSES_FOR_VALUE, Target, kept_bytes, state_bytes};
