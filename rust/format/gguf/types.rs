//! The types of ggml: the one table of them.

use crate::dtype::Dtype;

/// How elements of a tensor are stored.
#[derive(Debug, PartialEq, Eq)]
pub struct Type {
    /// Its number in a file.
    pub id: u32,
    /// ggml's name of it, small: also that of its codec.
    pub name: &'static str,
    /// Neighbours in a row that share their bytes.
    pub elements: u64,
    /// Those bytes.
    pub bytes: u64,
}

macro_rules! types {
    ($($id:literal $name:literal $elements:literal $bytes:literal)*) => {
        &[$(Type { id: $id, name: $name, elements: $elements, bytes: $bytes },)*]
    };
}

impl Type {
    /// All that a file may hold. Source: `ggml.h` and the blocks in `ggml-common.h`.
    pub const ALL: &[Self] = types! {
        0 "f32" 1 4
        1 "f16" 1 2
        2 "q4_0" 32 18
        3 "q4_1" 32 20
        6 "q5_0" 32 22
        7 "q5_1" 32 24
        8 "q8_0" 32 34
        9 "q8_1" 32 36
        10 "q2_k" 256 84
        11 "q3_k" 256 110
        12 "q4_k" 256 144
        13 "q5_k" 256 176
        14 "q6_k" 256 210
        15 "q8_k" 256 292
        16 "iq2_xxs" 256 66
        17 "iq2_xs" 256 74
        18 "iq3_xxs" 256 98
        19 "iq1_s" 256 50
        20 "iq4_nl" 32 18
        21 "iq3_s" 256 110
        22 "iq2_s" 256 82
        23 "iq4_xs" 256 136
        24 "i8" 1 1
        25 "i16" 1 2
        26 "i32" 1 4
        27 "i64" 1 8
        28 "f64" 1 8
        29 "iq1_m" 256 56
        30 "bf16" 1 2
        34 "tq1_0" 256 54
        35 "tq2_0" 256 66
        39 "mxfp4" 32 17
        40 "nvfp4" 64 36
        41 "q1_0" 128 18
    };

    /// Numbers that earlier versions of ggml gave to types it no longer has.
    const GONE: &[(u32, &str)] = &[
        (4, "Q4_2"),
        (5, "Q4_3"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
    ];

    /// The type of a number in a file.
    ///
    /// # Errors
    /// What the number was once, if anything.
    pub(super) fn of(id: u32) -> Result<&'static Self, Option<&'static str>> {
        let found = Self::ALL.iter().find(|kind| kind.id == id);
        let gone = || Self::GONE.iter().find(|(number, _)| *number == id).map(|(_, name)| *name);
        found.ok_or_else(gone)
    }

    /// The type whose elements are of a dtype, if there is one.
    #[must_use]
    pub fn plain(dtype: Dtype) -> Option<&'static Self> {
        Self::ALL.iter().find(|kind| kind.dtype() == Some(dtype))
    }

    /// The type whose blocks a codec of this name makes, if there is one.
    #[must_use]
    pub fn blocks(codec: &str) -> Option<&'static Self> {
        let mut blocks = Self::ALL.iter().filter(|kind| kind.dtype().is_none());
        blocks.find(|kind| kind.name.eq_ignore_ascii_case(codec))
    }

    /// The dtype of its elements, if that says all; none of blocks.
    #[must_use]
    pub fn dtype(&self) -> Option<Dtype> {
        Some(match self.name {
            "f64" => Dtype::F64,
            "f32" => Dtype::F32,
            "f16" => Dtype::F16,
            "bf16" => Dtype::BF16,
            "i64" => Dtype::I64,
            "i32" => Dtype::I32,
            "i16" => Dtype::I16,
            "i8" => Dtype::I8,
            _ => return None,
        })
    }
}
