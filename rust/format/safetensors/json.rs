//! The JSON text of a header, read as a stream: no tree is built, and every key is seen, so
//! duplicates and unknown fields cannot hide.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::tensor::{MAX_RANK, METADATA, NOTES};
use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::flaw::{Checked, DAMAGED, Flaw, MAX_NAME, MAX_TENSORS};
use crate::format::flaw::{charge, name_too_long, no_memory, twice};
use crate::format::tensor::Tensor;

/// The text map in file order.
type Metadata = Vec<(String, String)>;

/// The fields of a tensor's entry, for messages.
const FIELDS: &str = "`dtype`, `shape` and `data_offsets`";

/// Read the text of a header: its metadata in file order and its tensors as they come, their sizes
/// not yet checked.
pub(super) fn read(text: &str, path: &Path) -> Result<(Metadata, Vec<Tensor>)> {
    let mut reading = Reading {
        path,
        tensors: Vec::new(),
        metadata: Vec::new(),
        entry: None,
        field: None,
        failure: None,
    };
    if !text.starts_with('{') {
        let got = quoted(&text.chars().take(16).collect::<String>());
        let what = format!("does not begin with an object, expected `{{`, got {got}");
        return Err(reading.located(Flaw::new(what, DAMAGED)));
    }
    let mut source = serde_json::Deserializer::from_str(text);
    let outcome = source.deserialize_map(Top(&mut reading)).and_then(|()| source.end());
    match (outcome, reading.failure.take()) {
        (Ok(()), None) => Ok((reading.metadata, reading.tensors)),
        (_, Some(failure)) => Err(failure),
        (Err(error), None) => Err(reading.explain(&error, text)),
    }
}

/// Refuse names that no reader could tell from the metadata, or that are absurdly long.
pub(super) fn check_name(name: &str) -> Checked<()> {
    if name == METADATA {
        let what = format!("reserved name, expected the name of a tensor, got `{METADATA}`");
        return Err(Flaw::new(what, "rename the tensor"));
    }
    if name.len() > MAX_NAME {
        return Err(name_too_long(name.len()));
    }
    Ok(())
}

/// What has been read so far and where the reader stands; it outlives the visitors below, whose
/// errors can carry text only.
struct Reading<'a> {
    path: &'a Path,
    tensors: Vec<Tensor>,
    metadata: Metadata,
    /// The top-level key being read.
    entry: Option<String>,
    /// The key inside it being read.
    field: Option<&'static str>,
    failure: Option<Error>,
}

impl Reading<'_> {
    /// Record what is wrong here and make the error that ends the reading.
    fn stop<E: serde::de::Error>(&mut self, flaw: Flaw) -> E {
        self.failure = Some(self.located(flaw));
        E::custom("refused")
    }

    /// Like [`Reading::stop`] for a check that may pass.
    fn pass<T, E: serde::de::Error>(&mut self, checked: Checked<T>) -> std::result::Result<T, E> {
        checked.map_err(|flaw| self.stop(flaw))
    }

    /// Store the tensor whose entry has just been read.
    fn keep<E: serde::de::Error>(
        &mut self,
        dtype: Dtype,
        shape: Vec<u64>,
        start: u64,
        end: u64,
    ) -> std::result::Result<(), E> {
        if self.tensors.len() == MAX_TENSORS {
            let what = format!("too many tensors, expected at most {MAX_TENSORS}, got more");
            return Err(self.stop(Flaw::new(what, DAMAGED)));
        }
        if self.tensors.try_reserve(1).is_err() {
            return Err(self.stop(no_memory("one more tensor")));
        }
        let name = self.entry.take().unwrap_or_default();
        self.tensors.push(Tensor { name, dtype, shape, start, end });
        Ok(())
    }

    fn located(&self, flaw: Flaw) -> Error {
        let path = self.path.display();
        let place = match self.entry.as_deref() {
            None => format!("{path}: header"),
            Some(METADATA) => format!("{path}: `{METADATA}`"),
            Some(name) => format!("{path}: tensor {}", quoted(name)),
        };
        flaw.at(&match self.field {
            None => place,
            Some(field) => format!("{place}, `{field}`"),
        })
    }

    /// Turn an error of the JSON reader into one that says where and what.
    fn explain(&self, error: &serde_json::Error, text: &str) -> Error {
        let shown = error.to_string();
        let message = shown.rsplit_once(" at line ").map_or(&*shown, |(message, _)| message);
        let at = offset(text, error.line(), error.column());
        // Only our own words follow the last "expected": the text of the file stands before.
        let flaw = match message.rsplit_once(", expected ") {
            Some((got, expected)) if error.is_data() => {
                let what = format!("wrong type near byte {at} of the JSON");
                Flaw::new(
                    format!("{what}, expected {}, got {}", plain(expected), plain(got)),
                    DAMAGED,
                )
            }
            _ => {
                let got: String = text[at..].chars().take(16).collect();
                let got = if got.is_empty() { "the end".to_owned() } else { quoted(&got) };
                let what = format!("not JSON near byte {at} ({message})");
                Flaw::new(format!("{what}, expected the text of a header, got {got}"), DAMAGED)
            }
        };
        self.located(flaw)
    }
}

/// The byte that a line and column (both from 1) of the JSON reader stand for.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (before + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The JSON reader's name of a type or value in plain words, without a string's content.
fn plain(name: &str) -> &str {
    let name = name.strip_prefix("invalid type: ").unwrap_or(name);
    let name = name.strip_prefix("invalid value: ").unwrap_or(name);
    match name {
        "map" => "an object",
        "sequence" => "an array",
        "u64" => "a whole number from 0 to 2^64 - 1",
        _ if name.starts_with("string ") => "a string",
        _ => name,
    }
}

/// The outermost object.
struct Top<'r, 'a>(&'r mut Reading<'a>);

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let reading = self.0;
        let mut described = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if std::mem::replace(&mut described, true) {
                    return Err(reading.stop(twice("key", METADATA)));
                }
                reading.entry = Some(name);
                map.next_value_seed(Notes(reading))?;
            } else {
                reading.pass(check_name(&name))?;
                reading.entry = Some(name);
                map.next_value_seed(Entry(reading))?;
            }
            reading.entry = None;
        }
        Ok(())
    }
}

/// The text map; `null` stands for an empty one, as in other readers.
struct Notes<'r, 'a>(&'r mut Reading<'a>);

impl<'de> DeserializeSeed<'de> for Notes<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Notes<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let reading = self.0;
        let mut total = 0_usize;
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            reading.pass(charge(&mut total, (&key, &value), NOTES))?;
            reading.metadata.push((key, value));
        }
        let mut keys: Vec<_> = reading.metadata.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        let pair = keys.windows(2).find(|pair| pair[0] == pair[1]);
        match pair.map(|pair| twice("metadata key", pair[0])) {
            Some(flaw) => Err(reading.stop(flaw)),
            None => Ok(()),
        }
    }
}

/// The entry of one tensor, whose name is `reading.entry`.
struct Entry<'r, 'a>(&'r mut Reading<'a>);

impl<'de> DeserializeSeed<'de> for Entry<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {FIELDS}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let reading = self.0;
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "dtype" if dtype.is_none() => {
                    reading.field = Some("dtype");
                    let name: String = map.next_value()?;
                    dtype = Some(reading.pass(dtype_named(&name))?);
                }
                "shape" if shape.is_none() => {
                    reading.field = Some("shape");
                    shape = Some(map.next_value_seed(Numbers { reading, most: MAX_RANK })?);
                }
                "data_offsets" if offsets.is_none() => {
                    reading.field = Some("data_offsets");
                    let pair = map.next_value_seed(Numbers { reading, most: 2 })?;
                    offsets = Some(reading.pass(two(&pair))?);
                }
                "dtype" | "shape" | "data_offsets" => {
                    return Err(reading.stop(twice("field", &key)));
                }
                _ => return Err(reading.stop(unknown_field(&key))),
            }
            reading.field = None;
        }
        let missing = |field| {
            move || Flaw::new(format!("no `{field}`, expected {FIELDS}, got less"), DAMAGED)
        };
        let dtype = reading.pass(dtype.ok_or_else(missing("dtype")))?;
        let shape = reading.pass(shape.ok_or_else(missing("shape")))?;
        let (start, end) = reading.pass(offsets.ok_or_else(missing("data_offsets")))?;
        reading.keep(dtype, shape, start, end)
    }
}

fn dtype_named(name: &str) -> Checked<Dtype> {
    Dtype::parse(name).ok_or_else(|| {
        let what = format!(
            "unknown dtype, expected a safetensors dtype such as `BF16`, got {}",
            quoted(name)
        );
        Flaw::new(what, "the file may need a newer submerge; its sizes cannot be checked")
    })
}

fn two(numbers: &[u64]) -> Checked<(u64, u64)> {
    let [start, end] = *numbers else {
        let what = format!("too few numbers, expected a start and an end, got {}", numbers.len());
        return Err(Flaw::new(what, DAMAGED));
    };
    Ok((start, end))
}

fn unknown_field(name: &str) -> Flaw {
    let what = format!("unknown field, expected {FIELDS} only, got {}", quoted(name));
    Flaw::new(
        what,
        "a field this version does not know may change the tensor's meaning, so the file is refused",
    )
}

/// An array of whole numbers, at most `most` of them.
struct Numbers<'r, 'a> {
    reading: &'r mut Reading<'a>,
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Numbers<'_, '_> {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        source: D,
    ) -> std::result::Result<Vec<u64>, D::Error> {
        source.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers<'_, '_> {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            if numbers.len() == self.most {
                let what = format!("too many numbers, expected at most {}, got more", self.most);
                return Err(self.reading.stop(Flaw::new(what, DAMAGED)));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}
