//! Threads that share the work of one matrix while the workers of its job wait for it.

use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::linalg::engine::{Task, Team};
use crate::schedule::STACK;
use crate::simd::standard_arithmetic;

/// So many threads at once, the one that asks among them.
///
/// They are no pool: a worker of one that waits for another takes up work of its own meanwhile, and the
/// next item would wait for the turn that its own thread holds.
pub(super) struct Helpers(pub(super) usize);

impl Team for Helpers {
    fn work(&self, tasks: Vec<Task<'_>>) {
        let helpers = self.0.min(tasks.len()).saturating_sub(1);
        let tasks = Mutex::new(tasks.into_iter());
        let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(task) = next() {
                task();
            }
        };
        thread::scope(|scope| {
            for _ in 0..helpers {
                let help = || {
                    standard_arithmetic();
                    work();
                };
                // Where no thread can be had, fewer do the same.
                let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, help);
            }
            work();
        });
    }
}
