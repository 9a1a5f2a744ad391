//! AVX2 and AVX-512. Neither uses FMA or the BF16 conversion instructions: the first would change
//! the arithmetic, the second treats subnormals and NaNs differently.

use super::{Isa, isa};

static AVX2: Isa = isa!("avx2", "avx2");
static AVX512: Isa = isa!("avx512", "avx512f,avx512bw,avx512vl,avx512dq");

/// The tables whose instructions this processor has and the system saves, slowest first.
pub(super) fn available() -> Vec<&'static Isa> {
    let avx2 = is_x86_feature_detected!("avx2");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    [(avx2, &AVX2), (avx512, &AVX512)]
        .into_iter()
        .filter_map(|(detected, isa)| detected.then_some(isa))
        .collect()
}
