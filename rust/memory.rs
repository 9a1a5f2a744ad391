//! Memory that is asked for before it is used: what cannot be had is an error, never an abort.

use crate::error::{Error, Result};

/// Make a buffer `len` long; what it held before may stay in it.
pub fn resize<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> Result<()> {
    let more = len.saturating_sub(buffer.len());
    buffer.try_reserve_exact(more).map_err(|_| none_left((len * size_of::<T>()) as u64))?;
    buffer.resize(len, T::default());
    Ok(())
}

/// Find out whether so many bytes could be had now, all at once. They are given back: what follows asks
/// for them in pieces, in places that have no way to refuse.
pub fn expect(bytes: u64) -> Result<()> {
    let mut room = Vec::<u8>::new();
    let size = usize::try_from(bytes).map_err(|_| none_left(bytes))?;
    room.try_reserve_exact(size).map_err(|_| none_left(bytes))?;
    std::hint::black_box(&room);
    Ok(())
}

/// The error of what cannot be had.
#[cold]
#[must_use]
pub fn none_left(bytes: u64) -> Error {
    let what = format!("out of memory, expected room for {bytes} bytes, got none");
    Error::plan(what).hint(
        "lower `--memory-budget` or `--threads`, free memory, or raise this process's limit \
         (`ulimit -v`)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_with_a_hint() {
        let mut buffer = vec![7_u16; 3];
        resize(&mut buffer, 5).expect("ten bytes");
        assert_eq!(buffer, [7, 7, 7, 0, 0]);
        resize(&mut buffer, 2).expect("less");
        assert_eq!(buffer, [7, 7]);
        let error = resize(&mut buffer, usize::MAX / 4).expect_err("too much");
        assert!(error.advice().is_some_and(|hint| hint.contains("--memory-budget")), "{error}");
        assert_eq!(buffer, [7, 7]);
        expect(1 << 20).expect("a mebibyte");
        expect(u64::MAX).expect_err("more than there is");
    }
}
