//! `Q8_0` of ggml: 32 signed bytes behind their scale, an F16. `value = q d`.
//!
//! To write, `d = largest / 127` in f32 and `q = round(x (1 / d))` with halves away from zero; `d` is
//! stored as F16.

#![allow(clippy::inline_always)]

use super::block::{Each, Format, Numbers, inverses, put_halves};
use super::codes::{byte, part};
use crate::dtype::Float;

#[derive(Debug)]
pub struct Q8_0;

impl Format<32, 34> for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const OVERFLOW: Option<f32> = Some(127.0 * Float::F16.overflow());

    #[inline(always)]
    fn decode(block: &[u8; 34], d: f32, out: &mut [f32; 32]) {
        let codes: [u8; 32] = *part(block, 2);
        for (value, q) in out.iter_mut().zip(codes) {
            *value = f32::from(q.cast_signed()) * d;
        }
    }

    #[inline(always)]
    fn encode(from: &Numbers<32>, blocks: &mut Each<[u8; 34]>) -> Each<bool> {
        let scales = from.largest.map(|largest| largest / 127.0);
        let inverses = inverses(&scales);
        for ((values, block), inverse) in from.values.iter().zip(&mut *blocks).zip(inverses) {
            let mut codes = [0; 32];
            for (q, x) in codes.iter_mut().zip(values) {
                *q = byte((x * inverse).round().clamp(-127.0, 127.0));
            }
            block[2..].copy_from_slice(&codes);
        }
        put_halves(blocks, 0, &scales)
    }
}
