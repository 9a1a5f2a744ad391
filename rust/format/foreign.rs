//! What a file of no container that is known probably is, told by its first bytes.
//!
//! Only asked once a file has been refused: eight bytes of another format may be a valid length.

/// Beginnings of the files people pass by mistake, with what to do; the first match counts.
const SIGNS: [(&[u8], &str); 10] = [
    (
        b"version https://git-lfs",
        "this is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository",
    ),
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x89HDF", "this is an HDF5 file; convert it to safetensors first"),
    (b"\x1f\x8b", "this is a gzip archive; unpack it first"),
    (b"<", "this looks like a web page; the download needs a login or an accepted licence"),
    (b"{", "this is a JSON text, perhaps an index; give the folder it stands in"),
    (&[0; 16], "the file begins with zeros; the download or copy is probably incomplete"),
];

const PICKLE: &str = "this is a PyTorch checkpoint (.ckpt, .pt, .bin), which can run code when \
                      loaded; convert it to safetensors with a tool you trust";

/// What to do about a file that begins with these bytes, when they are known.
pub(super) fn recognise(head: &[u8]) -> Option<&'static str> {
    let start = if head.starts_with(b"\xef\xbb\xbf") { &head[3..] } else { head };
    let text = start.trim_ascii_start();
    let fits = |sign: &[u8]| start.starts_with(sign) || (sign.is_ascii() && text.starts_with(sign));
    SIGNS.iter().find(|(sign, _)| fits(sign)).map(|(_, hint)| *hint)
}
