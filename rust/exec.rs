//! Running a plan: workers read, combine and write; the calling thread watches.
//!
//! Workers take items in order. Each computes its item in a buffer of its own, waits for its turn,
//! appends the bytes and folds the statistics: so the output is written in order, sums are added in
//! grid order whatever the number of threads, and memory is what `schedule::fit` says. The threads
//! are a pool of this job's own, joined before `execute` returns: nothing is left for a fork or an
//! interpreter's exit to trip over.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use self::given::{Given, Observer};
use self::helpers::Helpers;
use self::leaving::{Leaving, unstartable};
use self::turn::Turn;
use crate::compute::{Scratch, Setting};
use crate::error::{Error, Result};
use crate::io::sys;
use crate::kernels::runner::Run;
use crate::linalg::engine::Engine;
use crate::memory;
use crate::plan::{self, Mode, Options, Plan};
use crate::report::{Phases, Report, UnitReport};
use crate::resolve::{Unit, resolve};
use crate::schedule::{Item, Part, Pass, STACK, Shape, affordable, cut};
use crate::simd::Isa;
use crate::sink::{self, Means, Sink, Written};

mod given;
mod helpers;
mod leaving;
mod turn;

/// How often the calling thread wakes.
const WAKE: Duration = Duration::from_millis(100);

/// Run the plan in `plan` as `options` say; `cancel` may be set from any thread.
///
/// # Errors
/// Of every kind; a panic of a worker becomes [`crate::error::Kind::Internal`]. Whenever an error
/// is returned, no output exists that did not exist before.
pub fn execute(
    plan: &str,
    options: &str,
    cancel: &AtomicBool,
    observer: Observer,
) -> Result<Report> {
    execute_with(plan, options, Given::default(), cancel, observer)
}

/// [`execute`] with sources and a sink of the embedder's own.
pub fn execute_with(
    plan: &str,
    options: &str,
    given: Given,
    cancel: &AtomicBool,
    observer: Observer,
) -> Result<Report> {
    let run = || {
        let read = 16 * (plan.len() + options.len()); // a byte of JSON becomes no more than that
        memory::expect(read as u64)?;
        let plan = plan::parse_plan(plan)?;
        let options = plan::parse_options(options)?;
        run(&plan, &options, given, cancel, observer)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::internal(format!(
            "core: {}",
            text.unwrap_or_else(|| "unknown panic".to_owned())
        )))
    })
}

fn run(
    plan: &Plan,
    options: &Options,
    given: Given,
    cancel: &AtomicBool,
    observer: Observer,
) -> Result<Report> {
    let begun = Instant::now();
    let isa = Isa::named(&options.isa)
        .or_else(|| (options.isa == "auto").then(Isa::best))
        .ok_or_else(|| {
            let known: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
            Error::plan(format!(
                "options: isa `{}`, expected auto or {}",
                options.isa,
                known.join(", ")
            ))
        })?;
    let mut work = resolve(plan, options, &given.sources)?;
    let shape = affordable(&work, options)?;
    let how = Report::planned(shape, work.sources.iter().any(|source| source.is_mapped()), isa);
    if options.mode == Mode::Fit {
        return Ok(how);
    }
    let statistics_reused = options.statistics.as_ref().map_or(0, |known| work.recall(known));
    let (items, parts) = cut(&work, shape.item_elements)?;
    let seen = |run: &&dyn Run| !run.is_recalled() && run.passes() > 0;
    work.evaluate_networks()?;
    let halt = AtomicBool::new(false);
    let stop = || cancel.load(Ordering::Relaxed) || halt.load(Ordering::Relaxed);
    let (team, lacking) = (Helpers(shape.threads), AtomicU64::new(0));
    let mut own: Box<dyn Sink>;
    let sink: &mut dyn Sink = if let Some(sink) = given.sink {
        sink
    } else {
        let engine = Engine { isa, team: &team, stop: &stop, lacking: &lacking };
        own = sink::open(plan, &work, options, Means { engine, describe: given.describe })?;
        &mut *own
    };
    sink.begin(&work)?;
    let opened = begun.elapsed();

    let job = Job::new(
        Setting { work: &work, isa, stats: options.stats, cancel, halt: &halt },
        &items,
        &parts,
        sink,
    );
    let threads = job.work_through(shape, observer)?;
    let computed = begun.elapsed();

    let Finished { units, read, found } = job.finish()?;
    work.sources.iter().try_for_each(|source| source.check_unchanged())?;
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::cancelled());
    }
    let Written { bytes: written, notes, modules } = sink.commit()?;
    let ended = begun.elapsed();

    Ok(Report {
        units,
        bytes_read: read,
        bytes_written: written,
        notes,
        modules,
        seconds: ended.as_secs_f64(),
        phases: Phases {
            open: opened.as_secs_f64(),
            compute: computed.saturating_sub(opened).as_secs_f64(),
            commit: ended.saturating_sub(computed).as_secs_f64(),
        },
        threads,
        peak_rss: sys::peak_rss(),
        statistics_computed: work.units.iter().filter_map(Unit::run).filter(seen).count(),
        statistics_reused,
        statistics: if options.statistics.is_some() { work.keyed(found) } else { BTreeMap::new() },
        ..how
    })
}

/// The state shared by the workers and the watcher.
struct Job<'a> {
    setting: Setting<'a>,
    items: &'a [Item],
    parts: &'a [Part],
    next: AtomicUsize,
    done: AtomicU64,
    turn: Mutex<Turn<'a>>,
    /// Rung when a turn ends; workers wait on it.
    changed: Condvar,
    /// Rung when a worker leaves; only the watcher waits on it, so that items do not wake it.
    left: Condvar,
}

struct Finished {
    units: Vec<UnitReport>,
    read: u64,
    found: Vec<(usize, Vec<u64>)>,
}

impl<'a> Job<'a> {
    fn new(
        setting: Setting<'a>,
        items: &'a [Item],
        parts: &'a [Part],
        sink: &'a mut (dyn Sink + 'a),
    ) -> Self {
        let units = Vec::with_capacity(setting.work.units.len());
        let turn = Turn {
            next: 0,
            running: 0,
            failure: None,
            stopped: false,
            read: 0,
            sink,
            units,
            found: Vec::new(),
        };
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self {
            setting,
            items,
            parts,
            next,
            done,
            turn: Mutex::new(turn),
            changed: Condvar::new(),
            left: Condvar::new(),
        }
    }

    /// Start the workers, watch them, and return how many there could be when all have ended and
    /// their threads are joined. Where so many threads cannot be had, fewer do the same work.
    fn work_through(&self, shape: Shape, observer: Observer) -> Result<usize> {
        let useful = shape.threads.min(self.items.len()).max(1);
        let (mut threads, mut tries) = (useful, 10);
        loop {
            match self.work_with(threads, &mut *observer) {
                // As the plan says, whether there was work for all of them or not.
                Ok(()) => return Ok(if threads == useful { shape.threads } else { threads }),
                // What started and ended may count for a moment longer.
                Err(_) if threads > 1 || tries > 0 => {
                    tries -= i32::from(threads == 1);
                    threads = (threads / 2).max(1);
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(refused) => return Err(unstartable(&refused)),
            }
        }
    }

    /// An error says that not all threads could be started: nothing was done.
    fn work_with(
        &self,
        threads: usize,
        observer: Observer,
    ) -> std::result::Result<(), rayon::ThreadPoolBuildError> {
        self.lock().running = threads;
        let builder = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK)
            .thread_name(|i| format!("submerge-{i}"))
            .start_handler(|_| crate::simd::standard_arithmetic())
            .panic_handler(|_| {}); // a panic reaches `scope` below; it must not abort the host
        builder.build_scoped(rayon::ThreadBuilder::run, |pool| {
            pool.in_place_scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|_| self.worker());
                }
                self.watch(observer);
            });
        })
    }

    fn finish(self) -> Result<Finished> {
        let mut turn = self.turn.into_inner().unwrap_or_else(PoisonError::into_inner);
        turn.units.last_mut().into_iter().for_each(|last| last.stats.finish());
        match turn.failure {
            Some(error) => Err(error),
            None if turn.next == self.items.len() => {
                let Turn { units, read, found, .. } = turn;
                Ok(Finished { units, read, found })
            }
            None => Err(Error::internal("core: workers ended before their work")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turn<'a>> {
        // A panic while the lock was held has already marked the job as stopped.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Report progress, first that nothing is done and last that all is, until the work has ended.
    fn watch(&self, observer: Observer) {
        let total: u64 = self.items.iter().map(|item| item.len as u64).sum();
        self.report(0, total, observer);
        let mut turn = self.lock();
        while turn.running > 0 {
            let (guard, _) =
                self.left.wait_timeout(turn, WAKE).unwrap_or_else(PoisonError::into_inner);
            turn = guard;
            if turn.stopped || turn.running == 0 {
                continue;
            }
            drop(turn);
            self.setting.work.sources.iter().for_each(|source| source.give_way());
            self.report(self.done.load(Ordering::Relaxed), total, observer);
            turn = self.lock();
        }
        let stopped = turn.stopped;
        drop(turn);
        if !stopped {
            self.report(total, total, observer);
        }
    }

    /// Tell the observer how far the work is, and stop it if that is the answer.
    fn report(&self, done: u64, total: u64, observer: Observer) {
        let verdict = if self.setting.cancel.load(Ordering::Relaxed) {
            Err(Error::cancelled())
        } else {
            observer(done, total)
        };
        if let Err(error) = verdict {
            self.setting.halt.store(true, Ordering::Relaxed);
            self.lock().stop(Some(error));
            self.changed.notify_all();
        }
    }

    /// Wait until `ready`. `Err(None)`: another worker failed.
    fn wait(
        &self,
        ready: impl Fn(&Turn) -> bool,
    ) -> std::result::Result<MutexGuard<'_, Turn<'a>>, Option<Error>> {
        let mut turn = self.lock();
        while !turn.stopped && !ready(&turn) {
            turn = self.changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        if turn.stopped { Err(None) } else { Ok(turn) }
    }

    /// The only unit of an item that is a part of a pass.
    fn running(&self, item: &Item) -> Option<(usize, &'a dyn Run)> {
        let unit = self.parts.get(item.parts.start)?.unit;
        Some((unit, self.setting.work.units.get(unit)?.run()?))
    }

    /// How many of the items from here on are of passes in which nothing is left to see.
    fn needless(&self, from: usize) -> usize {
        let needless = |item: &&Item| {
            matches!(item.pass, Pass::Reduce(_))
                && self.running(item).is_some_and(|(_, run)| run.is_known())
        };
        self.items[from..].iter().take_while(needless).count()
    }

    fn worker(&self) {
        let _leaving = Leaving { turn: &self.turn, waiting: [&self.changed, &self.left] };
        let mut scratch = Scratch::default();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = self.items.get(index) else { return };
            if let Err(error) = self.make(index, item, &mut scratch) {
                self.lock().stop(error);
                self.setting.halt.store(true, Ordering::Relaxed); // once its reason is known
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Compute one item, then append it when its turn comes. `Err(None)`: another worker failed.
    fn make(
        &self,
        index: usize,
        item: &Item,
        scratch: &mut Scratch,
    ) -> std::result::Result<(), Option<Error>> {
        let parts = &self.parts[item.parts.clone()];
        if let Some(after) = item.after {
            // Nothing is computed before the passes it builds on have been folded.
            if self.wait(|turn| turn.next >= after)?.next > index {
                return Ok(()); // it turned out to be needless
            }
        }
        let done = match item.pass {
            Pass::Reduce(_) => self.setting.reduce(parts, scratch),
            Pass::Observe => self.setting.observe(parts, scratch),
            Pass::Map => self.setting.map(parts, scratch),
        }?;
        let next = self.items.get(index + 1);
        let last = next.is_none_or(|next| (next.pass, next.after) != (item.pass, item.after));
        let mut turn = self.wait(|turn| turn.next == index)?;
        if item.pass != Pass::Map {
            turn.gather((self.setting.work, parts), done, self.running(item).filter(|_| last))?;
            turn.next += 1;
            if last {
                turn.next += self.needless(index + 1);
            }
            drop(turn);
            self.changed.notify_all();
            return Ok(());
        }
        let pending = turn.sink.append(item, scratch.bytes())?;
        turn.fold((self.setting.work, parts), done);
        if let Some((_, run)) = self.running(item).filter(|_| last && item.after.is_some()) {
            run.forget();
        }
        turn.next += 1;
        drop(turn);
        self.changed.notify_all();
        self.done.fetch_add(item.len as u64, Ordering::Relaxed);
        // Waiting for the device happens outside the turn, so that others go on computing.
        pending.map_or(Ok(()), |pending| pending.wait().map_err(Some))
    }
}
