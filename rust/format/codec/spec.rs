//! How a plan names a codec, and which tensors it can be of.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::bnb4::{Bnb4, Nested};
use super::codes::Code;
use super::contract::Codec;
use super::double::{Double, Rounding};
use super::ggml::Ggml;
use super::mxfp8::Mxfp8;
use super::nvfp4::Nvfp4;
use super::plain::{Plain, PlainAtRandom};
use super::rotation;
use super::scaled::Scaled;
use super::tiles::Layout;
use crate::dtype::{Dtype, Float};
use crate::error::{Error, Result, quoted};

/// How a plan says what the bytes of a tensor mean: a word, or `{word: {parameter: value}}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Self")]
pub enum CodecSpec {
    /// Its dtype says all.
    Plain(Option<Random>),
    /// FP8, with one scale for all beside it.
    Scaled(Option<Random>),
    /// FP8, with a scale for each row beside it.
    ScaledRows(Option<Random>),
    /// Signed bytes, with one scale for all beside them.
    Int8(Option<Random>),
    /// Signed bytes, with a scale for each row beside them.
    Int8Rows(Option<Random>),
    /// The same of rotated values.
    Int8Convrot(Option<Rotated>),
    /// Signed bytes, and the largest of each row beside them: `LLM.int8()` of `bitsandbytes`.
    LlmInt8,
    /// Codes of 4 bits of `bitsandbytes`, NF4 or FP4. Beside them the largest of each block and the book; nested,
    /// the codes of the largest, the book, and the largest and the book of these codes.
    Bnb4(Blocks4),
    /// `F8_E4M3` in blocks of 32, and their scales, powers of two, in tiles beside them.
    Mxfp8(Option<Random>),
    /// Numbers of 4 bits in blocks of 16, the first of two in the high bits. Beside them the scales of blocks in
    /// tiles and the one of all.
    Nvfp4,
    /// The same with the first of two in the low bits, and the scales of blocks in rows.
    Nvfp4Bfl,
    /// Blocks of ggml, as U8.
    #[serde(skip)]
    Ggml(Ggml),
}

/// Rounding at random, to be written alone.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// The key of the noise: the word of an element depends on it and on the element's index in the tensor alone.
    pub seed: u64,
}

/// Values that are rotated in groups.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotated {
    /// Neighbours that are rotated together: a power of 4.
    #[serde(default = "Rotated::usual")]
    pub rotated: usize,
    /// As [`Random::seed`].
    #[serde(default)]
    pub seed: Option<u64>,
}

impl Rotated {
    fn usual() -> usize {
        256
    }
}

/// What a tensor of `bitsandbytes` does not say of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks4 {
    /// Its shape; the payload is flat.
    pub shape: Vec<u64>,
    /// Elements of a block.
    #[serde(default = "Blocks4::usual")]
    pub block: u64,
    /// How the largest of blocks are written, if not as F32.
    #[serde(default)]
    pub nested: Option<Nested4>,
}

impl Blocks4 {
    fn usual() -> u64 {
        64
    }
}

/// Codes of the largest of blocks.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested4 {
    /// How many of them are a block.
    #[serde(default = "Nested4::usual")]
    pub blocks: u64,
    /// What is added to each.
    pub offset: f32,
}

impl Nested4 {
    fn usual() -> u64 {
        256
    }
}

impl Default for CodecSpec {
    fn default() -> Self {
        Self::Plain(None)
    }
}

impl<'de> Deserialize<'de> for CodecSpec {
    /// A word alone is short for one without parameters.
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let given = Value::deserialize(from)?;
        if let Ok(format) = Ggml::deserialize(&given) {
            return Ok(Self::Ggml(format));
        }
        let given = match given {
            Value::String(word) => Value::Object(Map::from_iter([(word, Value::Null)])),
            other => other,
        };
        Self::deserialize(given).map_err(de::Error::custom)
    }
}

/// A tensor as a header describes it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The dtype of the payload.
    pub dtype: Dtype,
    /// Its rows.
    pub rows: u64,
    /// Elements of each, as the dtype counts them.
    pub columns: u64,
    /// The tensors beside it; `None` if it is to be written, with such as this codec writes.
    pub sides: Option<&'a [Beside<'a>]>,
}

/// A tensor beside a payload.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its dtype.
    pub dtype: Dtype,
}

const BYTES: &[Dtype] = &[Dtype::U8];
const SIGNED: &[Dtype] = &[Dtype::I8];
const FP8: &[Dtype] = &[Dtype::F8_E4M3, Dtype::F8_E5M2];
const E4M3: &[Dtype] = &[Dtype::F8_E4M3];
/// `ComfyUI`'s first files had them as bytes.
const E4M3_BYTES: &[Dtype] = &[Dtype::F8_E4M3, Dtype::U8];
const POWERS: &[Dtype] = &[Dtype::F8_E8M0, Dtype::U8];
const F32: &[Dtype] = &[Dtype::F32];
const SCALES: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

impl CodecSpec {
    /// The codec of a tensor; `None` if its elements can only be copied. `here` is where it is named.
    ///
    /// # Errors
    /// It is not what this codec is of.
    pub fn codec(&self, stored: Stored, here: &str) -> Result<Option<Arc<dyn Codec>>> {
        let found = Found { stored, here };
        match self {
            Self::Plain(None) => Ok(plain(stored.dtype)),
            Self::Plain(Some(random)) => Ok(Some(Arc::new(found.plain_at_random(*random)?))),
            Self::Scaled(random) => found.scaled(FP8, false, *random),
            Self::ScaledRows(random) => found.scaled(FP8, true, *random),
            Self::Int8(random) => found.scaled(SIGNED, false, *random),
            Self::Int8Rows(random) => found.scaled(SIGNED, true, *random),
            Self::Int8Convrot(rotated) => found.rotated(*rotated),
            Self::LlmInt8 => found.llm_int8(),
            Self::Bnb4(blocks) => found.bnb4(blocks),
            Self::Mxfp8(random) => found.mxfp8(*random),
            Self::Nvfp4 => found.nvfp4(Layout::Tiles),
            Self::Nvfp4Bfl => found.nvfp4(Layout::Rows),
            Self::Ggml(format) => {
                found.expect(BYTES, &[])?;
                Ok(Some(format.codec()))
            }
        }
    }
}

/// The codec of a tensor whose dtype says all; `None` if its elements can only be copied.
#[must_use]
pub fn plain(dtype: Dtype) -> Option<Arc<dyn Codec>> {
    if dtype == Dtype::F64 {
        return Some(Arc::new(Double(Rounding::Nearest)));
    }
    dtype.float().map(|float| Arc::new(Plain(float)) as Arc<dyn Codec>)
}

type Made = Result<Option<Arc<dyn Codec>>>;

/// A tensor, and where a plan names it.
#[derive(Clone, Copy)]
struct Found<'a> {
    stored: Stored<'a>,
    here: &'a str,
}

impl Found<'_> {
    /// Its dtype, and those of the tensors beside it, are among those expected.
    fn expect(&self, payload: &[Dtype], sides: &[&[Dtype]]) -> Result<()> {
        let Self { stored, here } = self;
        if !payload.contains(&stored.dtype) {
            let (expected, got) = (listed(payload), stored.dtype.name());
            let what = format!("{here}: a codec of another dtype, expected {expected}, got {got}");
            let hint = "make the plan again with this version of submerge";
            return Err(Error::plan(what).hint(hint));
        }
        let Some(found) = stored.sides else { return Ok(()) };
        if found.len() != sides.len() {
            let what = format!(
                "{here}: tensors beside the rows differ, expected {}, got {}",
                sides.len(),
                found.len()
            );
            return Err(Error::plan(what).hint(OTHER_FORMAT));
        }
        match found.iter().zip(sides).find(|(side, dtypes)| !dtypes.contains(&side.dtype)) {
            None => Ok(()),
            Some((side, dtypes)) => {
                let (name, got) = (quoted(side.name), side.dtype.name());
                let what =
                    format!("{here}: {name} beside it, expected {}, got {got}", listed(dtypes));
                Err(Error::plan(what).hint(OTHER_FORMAT))
            }
        }
    }

    fn refuse(&self, what: &str, hint: &'static str) -> Error {
        Error::plan(format!("{}: {what}", self.here)).hint(hint)
    }

    /// What the scales beside it are stored as.
    fn scales(&self) -> Float {
        let first = self.stored.sides.and_then(|sides| sides.first());
        first.and_then(|side| side.dtype.float()).unwrap_or(Float::F32)
    }

    fn codes(&self, payload: &[Dtype], by_rows: bool) -> Result<Scaled> {
        self.expect(payload, &[SCALES])?;
        let every = by_rows.then_some(self.stored.columns.max(1));
        let fp8 = self.stored.dtype.float();
        Ok(Scaled::new(fp8.map_or(Code::Int, Code::Float), self.scales(), every))
    }

    fn scaled(&self, payload: &[Dtype], by_rows: bool, random: Option<Random>) -> Made {
        let codec = self.codes(payload, by_rows)?;
        Ok(Some(Arc::new(Scaled { seed: random.map(|random| random.seed), ..codec })))
    }

    fn rotated(&self, rotated: Option<Rotated>) -> Made {
        self.expect(SIGNED, &[SCALES])?;
        let usual = Rotated { rotated: Rotated::usual(), seed: None };
        let Rotated { rotated, seed } = rotated.unwrap_or(usual);
        if !rotation::SIZES.contains(&rotated) {
            let what = format!("groups of {rotated}, expected one of {:?}", rotation::SIZES);
            return Err(self.refuse(&what, "the size is in the layer's `comfy_quant`"));
        }
        let columns = self.stored.columns;
        if !columns.is_multiple_of(rotated as u64) {
            let what = format!("rows of {columns}, expected whole groups of {rotated}");
            return Err(self.refuse(&what, "write int8_row, or keep this tensor in BF16"));
        }
        let every = (columns / rotated as u64).max(1);
        let codec = Scaled::new(Code::Int, self.scales(), Some(every));
        Ok(Some(Arc::new(Scaled { rotated, seed, ..codec })))
    }

    fn llm_int8(&self) -> Made {
        self.expect(SIGNED, &[F32])?;
        self.only_read("`LLM.int8()`")?;
        let codec = self.codes(SIGNED, true)?;
        Ok(Some(Arc::new(Scaled { factor: 1.0 / 127.0, ..codec })))
    }

    fn bnb4(&self, blocks: &Blocks4) -> Made {
        let Blocks4 { shape, block, nested } = blocks;
        match nested {
            None => self.expect(BYTES, &[F32, F32])?,
            Some(_) => self.expect(BYTES, &[BYTES, F32, F32, F32])?,
        }
        self.only_read("bitsandbytes of 4 bits")?;
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).try_fold(1_u64, |n, d| n.checked_mul(*d));
        let elements = columns.and_then(|columns| columns.checked_mul(rows));
        let bytes = self.stored.rows.checked_mul(self.stored.columns);
        let (Some(columns), Some(elements), Some(bytes)) = (columns, elements, bytes) else {
            return Err(self.refuse("a shape beyond 2^64 elements", OTHER_FORMAT));
        };
        if elements.div_ceil(2) != bytes {
            let what =
                format!("{bytes} bytes, expected {} of shape {shape:?}", elements.div_ceil(2));
            return Err(self.refuse(&what, OTHER_FORMAT));
        }
        if !columns.is_multiple_of(2) {
            let what = format!("rows of {columns} elements of 4 bits, expected an even number");
            let hint = "two rows would share a byte; decode this tensor with bitsandbytes first";
            return Err(self.refuse(&what, hint));
        }
        let inner = nested.map_or(1, |nested| nested.blocks);
        if *block < 2 || !block.is_multiple_of(2) || inner == 0 {
            let what = format!(
                "blocks of {block}, nested in {inner}, expected an even number and at least 1"
            );
            return Err(self.refuse(&what, OTHER_FORMAT));
        }
        let nested = nested.map(|Nested4 { blocks, offset }| Nested { blocks, offset });
        Ok(Some(Arc::new(Bnb4::new([rows, columns], *block, nested))))
    }

    fn mxfp8(&self, random: Option<Random>) -> Made {
        self.expect(E4M3, &[POWERS])?;
        self.whole_blocks(32, self.stored.columns, true)?;
        let seed = random.map(|random| random.seed);
        Ok(Some(Arc::new(Mxfp8::new(self.stored.columns, seed))))
    }

    fn nvfp4(&self, layout: Layout) -> Made {
        self.expect(BYTES, &[E4M3_BYTES, F32])?;
        let columns = self.stored.columns.saturating_mul(2);
        self.whole_blocks(16, columns, layout == Layout::Tiles)?;
        Ok(Some(Arc::new(Nvfp4::new(layout, columns))))
    }

    /// Columns are whole blocks, and rows too where a file has them `padded`: others would have to be, which
    /// is neither read nor written.
    fn whole_blocks(&self, n: u64, columns: u64, padded: bool) -> Result<()> {
        let (rows, written) = (self.stored.rows, self.stored.sides.is_none());
        if columns.is_multiple_of(n) && (rows.is_multiple_of(n) || !written || !padded) {
            return Ok(());
        }
        let both = if written && padded { " of both" } else { " columns" };
        let what = format!("{rows} rows of {columns}, expected multiples of {n}{both}");
        Err(self.refuse(&what, "such a tensor would have to be padded; keep it in BF16"))
    }

    fn plain_at_random(&self, random: Random) -> Result<PlainAtRandom> {
        self.expect(FP8, &[])?;
        let float = self.stored.dtype.float().unwrap_or(Float::F8E4M3);
        Ok(PlainAtRandom { float, seed: random.seed })
    }

    fn only_read(&self, format: &str) -> Result<()> {
        if self.stored.sides.is_some() {
            return Ok(());
        }
        let what = format!("{format} is read only, expected a format that can be written");
        Err(self
            .refuse(&what, "write int8, fp8 or nvfp4, or BF16 and let bitsandbytes quantise it"))
    }
}

const OTHER_FORMAT: &str =
    "the file is in another format than the plan says, or damaged; fetch it again";

fn listed(dtypes: &[Dtype]) -> String {
    let mut list = String::new();
    for (at, dtype) in dtypes.iter().enumerate() {
        let joint = match at {
            0 => "",
            _ if at + 1 == dtypes.len() => " or ",
            _ => ", ",
        };
        let _ = write!(list, "{joint}{}", dtype.name());
    }
    list
}
