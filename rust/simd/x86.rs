//! AVX2 and AVX-512. Neither uses FMA or the BF16 conversion instructions: the first would change
//! the arithmetic, the second treats subnormals and NaNs differently. Both decode small floats with
//! F16C ([`super::f16c`]), which every processor with AVX2 has.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::f16c;
use super::isa::{Isa, isa};

static AVX2: Isa = Isa {
    decode: f16c::decode_avx2,
    decode_scaled: f16c::decode_scaled_avx2,
    ..isa!("avx2", "avx2")
};
static AVX512: Isa = Isa {
    decode: f16c::decode_avx512,
    decode_scaled: f16c::decode_scaled_avx512,
    ..isa!("avx512", "avx512f,avx512bw,avx512vl,avx512dq")
};

/// The tables whose instructions this processor has and the system saves, slowest first.
pub(super) fn available() -> Vec<&'static Isa> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    [(avx2, &AVX2), (avx512, &AVX512)]
        .into_iter()
        .filter_map(|(detected, isa)| detected.then_some(isa))
        .collect()
}

/// Sets the control word a process starts with: round to nearest, keep subnormals, no traps.
pub(super) fn standard_arithmetic() {
    load_control(0x1F80);
}

/// One request per cache line.
pub(super) fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: SSE is part of x86-64, the pointer is into a live slice, and a prefetch reads
        // nothing the program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

fn load_control(word: u32) {
    // SAFETY: reads four bytes; the words given here raise no trap.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, readonly)) }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn a_flushing_host_does_not_reach_the_arithmetic() {
        let products = std::thread::spawn(|| {
            let product = || black_box(1e-39_f32) * black_box(0.5);
            load_control(0x1F80 | 0x8040);
            let flushed = product();
            standard_arithmetic();
            [flushed.to_bits(), product().to_bits()]
        });
        let products = products.join().expect("no panic");
        assert_eq!(products, [0, 5e-40_f32.to_bits()]);
    }
}
