//! The beginning and the end of workers.

use std::sync::{Condvar, Mutex, PoisonError};

use super::turn::Turn;
use crate::error::Error;

/// Counts a worker out, even if it panics, so that nobody waits for it for ever.
pub(super) struct Leaving<'b, 'a> {
    pub(super) turn: &'b Mutex<Turn<'a>>,
    /// Who waits for a turn, and who waits for workers.
    pub(super) waiting: [&'b Condvar; 2],
}

impl Drop for Leaving<'_, '_> {
    fn drop(&mut self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.running -= 1;
        if std::thread::panicking() {
            turn.stopped = true;
        }
        drop(turn);
        self.waiting.iter().for_each(|waiting| waiting.notify_all());
    }
}

/// Not even one worker could begin.
#[cold]
pub(super) fn unstartable(refused: &dyn std::fmt::Display) -> Error {
    let what = format!("no thread can be started, expected at least one: {refused}");
    Error::plan(what)
        .hint("close other programs, or raise this process's limits (`ulimit -u`, `ulimit -v`)")
}
