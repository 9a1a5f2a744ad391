//! Formulas of the elements in front of them: there is no pass before the map.
//!
//! Every result is rounded to f32, nothing is fused, and parameters are rounded to f32 once.

use super::family::family;
use super::runner::{Running, runner};
use super::tile::Whole;

mod clamp;
mod consensus;
mod masked;
mod nearswap;
pub mod ram;

family! {
    /// A formula of one element of every operand.
    Pointwise: runner(kernel, whole: Whole) -> Running { runner(kernel, whole) }
    /// Toward the second where it is near.
    "nearswap" => Nearswap(nearswap::Nearswap),
    /// What only one model changed stays whole.
    "ram" => Ram(ram::Ram),
    /// A difference, weakened where the first operand has moved already.
    "train_difference" => TrainDifference(masked::TrainDifference),
    /// A difference, where it is against what the first operand has learned.
    "add_opposite" => AddOpposite(masked::AddOpposite),
    /// The same, and nowhere else.
    "add_strict_opposite" => AddStrictOpposite(masked::AddStrictOpposite),
    /// A weighted sum, kept between operands.
    "clamp" => Clamp(clamp::Clamp),
    /// Differences that enough models need.
    "consensus_mask" => ConsensusMask(consensus::ConsensusMask),
}
