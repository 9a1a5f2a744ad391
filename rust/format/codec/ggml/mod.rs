//! The block formats of ggml, which GGUF files hold. To add one: a file, and its row in the table below.
//!
//! All are read; those with [`block::Format::OVERFLOW`] are written, with the bytes of ggml's
//! `quantize_row_*_ref` (without an importance matrix, and without fused multiply-add). Where that has
//! no defined result, this has: a block with an infinity or a NaN is NaN, since its codes cannot be,
//! and so is one with a scale beyond F16 where overflow is NaN; where it saturates the scale is the
//! largest of F16 and what is beyond its codes the outermost of them.

#![allow(non_camel_case_types)] // the spelling of ggml

use std::sync::Arc;

use serde::Deserialize;

use super::contract::Codec;
use block::Blocks;

mod block;
mod codes;
mod iq4;
mod levels;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod signed_search;
mod six_bits;
mod with_offsets;

macro_rules! formats {
    ($($name:ident $module:ident::$format:ident)*) => {
        /// A block format; a plan spells it in small letters.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
        #[serde(rename_all = "lowercase")]
        #[allow(missing_docs)]
        pub enum Ggml { $($name,)* }

        impl Ggml {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What reads it, and perhaps writes it.
            #[must_use]
            pub fn codec(self) -> Arc<dyn Codec> {
                match self { $(Self::$name => Arc::new(Blocks::<$module::$format, _, _>::default()),)* }
            }
        }
    };
}

formats! {
    Q8_0 q8_0::Q8_0
    Q4_0 q4_0::Q4_0
    Q4_1 q4_1::Q4_1
    Q5_0 q5_0::Q5_0
    Q5_1 q5_1::Q5_1
    Q2_K q2_k::Q2K
    Q3_K q3_k::Q3K
    Q4_K q4_k::Q4K
    Q5_K q5_k::Q5K
    Q6_K q6_k::Q6K
    IQ4_NL iq4::Iq4Nl
    IQ4_XS iq4::Iq4Xs
    MXFP4 mxfp4::Mxfp4
}
