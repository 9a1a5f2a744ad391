//! The GGUF reader and writer from outside: what is read, every refusal, memory, damaged files.

mod build;
mod errors;
mod memory;
mod properties;
mod sound;
mod written;

use build::{File, array, entry, string, uint32};
use submerge_core::dtype::Dtype;
use submerge_core::error::Result;
use submerge_core::format::gguf::Type;
use submerge_core::format::{Container, Header, read};
use submerge_core::io::source::Memory;

/// The name under which the messages speak of the file.
const PATH: &str = "some/model.gguf";

fn read_bytes(bytes: &[u8], limit: u64) -> Result<Header> {
    read(&Memory::new(PATH, "", bytes.into()), limit)
}

fn accepted(file: &File) -> Header {
    read_bytes(&file.bytes(), 1 << 30).expect("a valid file")
}

#[test]
fn tensors_are_rows_and_say_what_their_blocks_are() {
    let tensors = vec![
        entry("f", &[3, 2], 0, 0),
        entry("q", &[64, 2], 8, 32),
        entry("v", &[5], 30, 192),
        entry("deep", &[32, 2, 3], 2, 224),
        entry("s", &[], 0, 352),
    ];
    let header = accepted(&File::of(tensors, 356));
    assert_eq!(header.container, Container::Gguf);
    let found = |name| {
        let tensor = header.tensor(name).expect("a tensor of that name");
        (tensor.dtype, tensor.shape.clone(), tensor.start, tensor.end)
    };
    assert_eq!(found("f"), (Dtype::F32, vec![2, 3], 0, 24));
    assert_eq!(found("q"), (Dtype::U8, vec![2, 68], 32, 168));
    assert_eq!(found("v"), (Dtype::BF16, vec![5], 192, 202));
    assert_eq!(found("deep"), (Dtype::U8, vec![3, 36], 224, 332));
    assert_eq!(found("s"), (Dtype::F32, vec![], 352, 356));
    let blocks = |name| header.blocks.get(name).map(|blocks| (blocks.format, blocks.shape.clone()));
    assert_eq!(blocks("q"), Some(("q8_0", vec![2, 64])));
    assert_eq!(blocks("deep"), Some(("q4_0", vec![3, 2, 32])));
    assert_eq!(blocks("f"), None);
}

#[test]
fn key_values_are_texts() {
    let number = |kind: u32, bytes: &[u8]| (kind, bytes.to_vec());
    let file = File::of(Vec::new(), 0)
        .pair("general.architecture", string(b"flux"))
        .pair("u8", number(0, &[200]))
        .pair("i8", number(1, &[200]))
        .pair("u16", number(2, &[1, 2]))
        .pair("i16", number(3, &[255, 255]))
        .pair("u32", uint32(4_000_000_000))
        .pair("i32", number(5, &(-7_i32).to_le_bytes()))
        .pair("f32", number(6, &1.5_f32.to_le_bytes()))
        .pair("yes", number(7, &[1]))
        .pair("no", number(7, &[0]))
        .pair("names", array(8, 2, &[build::text(b"a"), build::text(b"bc")].concat()))
        .pair("none", array(4, 0, &[]))
        .pair("u64", number(10, &u64::MAX.to_le_bytes()))
        .pair("i64", number(11, &i64::MIN.to_le_bytes()))
        .pair("f64", number(12, &0.1_f64.to_le_bytes()))
        .pair("", string("é".as_bytes()));
    let header = accepted(&file);
    let found: Vec<_> = header.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("general.architecture", "flux"),
        ("u8", "200"),
        ("i8", "-56"),
        ("u16", "513"),
        ("i16", "-1"),
        ("u32", "4000000000"),
        ("i32", "-7"),
        ("f32", "1.5"),
        ("yes", "true"),
        ("no", "false"),
        ("names", "2 of string"),
        ("none", "0 of uint32"),
        ("u64", "18446744073709551615"),
        ("i64", "-9223372036854775808"),
        ("f64", "0.1"),
        ("", "é"),
    ];
    assert_eq!(found, expected);
    let long = vec![b'x'; (8 << 20) + 1];
    let header = accepted(&File::of(Vec::new(), 0).pair("long", string(&long)));
    assert_eq!(header.metadata[0].1, "a text of 8388609 bytes");
    let header = accepted(&File::of(Vec::new(), 0).pair("long", string(&long[1..])));
    assert_eq!(header.metadata[0].1.len(), 8 << 20);
}

#[test]
fn files_of_both_versions_any_order_and_any_alignment_are_read() {
    let tensors = vec![entry("b", &[4], 0, 64), entry("a", &[4], 0, 0)];
    let mut file = File::of(tensors, 80).pair("general.alignment", uint32(64));
    file.alignment = 64;
    for version in [2, 3] {
        file.version = version;
        let header = accepted(&file);
        let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(header.data_start % 64, 0);
    }
    // The padding behind the last tensor may be there or not.
    for data in 80..=128 {
        file.data = vec![0; data];
        accepted(&file);
    }
    for alignment in [1, 2, 8, 1 << 20] {
        let mut file = File::of(vec![entry("a", &[4], 0, 0)], 16);
        file = file.pair("general.alignment", uint32(alignment));
        file.alignment = alignment as usize;
        accepted(&file);
    }
}

#[test]
fn the_shape_of_a_flattened_tensor_is_what_its_key_value_says() {
    let shape = |dims: &[i32]| {
        let bytes: Vec<u8> = dims.iter().flat_map(|n| n.to_le_bytes()).collect();
        array(5, dims.len() as u64, &bytes)
    };
    let tensors = vec![entry("conv", &[64, 3], 8, 0), entry("plain", &[6], 0, 224)];
    let file = File::of(tensors, 248)
        .pair("comfy.gguf.orig_shape.conv", shape(&[3, 4, 4, 4]))
        .pair("comfy.gguf.orig_shape.plain", shape(&[2, 3]))
        .pair("comfy.gguf.orig_shape.nobody", shape(&[9]));
    let header = accepted(&file);
    assert_eq!(header.tensor("conv").expect("it").shape, [3, 68]);
    assert_eq!(header.blocks["conv"].shape, [3, 4, 4, 4]);
    assert_eq!(header.tensor("plain").expect("it").shape, [2, 3]);
    // A row that is a part of a block cannot be one of bytes.
    let file = File::of(vec![entry("conv", &[64, 3], 8, 0)], 204)
        .pair("comfy.gguf.orig_shape.conv", shape(&[12, 16]));
    let header = accepted(&file);
    assert_eq!(header.tensor("conv").expect("it").shape, [204]);
    assert_eq!(header.blocks["conv"].shape, [12, 16]);
}

#[test]
fn every_type_has_its_size() {
    for kind in Type::ALL {
        let file =
            File::of(vec![entry("a", &[kind.elements, 2], kind.id, 0)], 2 * kind.bytes as usize);
        let header = accepted(&file);
        assert_eq!(header.tensors[0].end, 2 * kind.bytes, "{}", kind.name);
        assert_eq!(header.blocks.contains_key("a"), kind.dtype().is_none(), "{}", kind.name);
        if let Some(dtype) = kind.dtype() {
            assert_eq!(Type::plain(dtype), Some(kind));
            assert_eq!(dtype.bits(), 8 * kind.bytes);
        } else {
            assert_eq!(Type::blocks(&kind.name.to_uppercase()), Some(kind));
        }
    }
    assert_eq!(Type::plain(Dtype::F8_E4M3), None);
    assert_eq!(Type::blocks("F32"), None);
}
