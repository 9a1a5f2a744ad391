//! What a job leaves behind when the world turns against it: nothing. Every test ends by listing
//! the folder of the output.
#![cfg(target_os = "linux")]

mod faults;
mod refusals;
mod stops;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use submerge_core::dtype::Dtype;
use submerge_core::error::{Error, Result};
use submerge_core::exec::execute;
use submerge_core::format::safetensors::{Tensor, encode};
use submerge_core::io::source::FileIdentity;
use submerge_core::report::Report;

/// Where a child process finds its job, and where it leaves the outcome.
const CHILD: &str = "SUBMERGE_SURVIVAL_JOB";

/// Two inputs in a folder of their own and an empty folder for the output.
struct Scene {
    root: tempfile::TempDir,
    rows: u64,
}

/// Elements of a row; with F32 a row takes 4 KiB.
const WIDTH: u64 = 1024;

impl Scene {
    /// Inputs of one F32 tensor, filled with values that differ from row to row.
    fn small() -> Self {
        let scene = Self::sparse(64);
        for (name, scale) in [("a", 1.0_f32), ("b", -3.0)] {
            let values = (0..scene.rows * WIDTH).flat_map(|i| (i as f32 * scale).to_le_bytes());
            let mut file = File::options().append(true).open(scene.input(name)).expect("an input");
            let header = file.metadata().expect("its size").len() - scene.bytes();
            file.set_len(header).expect("a shorter file");
            file.write_all(&values.collect::<Vec<_>>()).expect("room for an input");
        }
        scene
    }

    /// Inputs of `rows` rows of zeros that take no space on the disk.
    fn sparse(rows: u64) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("out")).expect("the folder of the output");
        let scene = Self { root, rows };
        for name in ["a", "b"] {
            let shape = vec![rows, WIDTH];
            let tensor =
                Tensor { name: "t".into(), dtype: Dtype::F32, shape, start: 0, end: scene.bytes() };
            let header = encode(&[], &[tensor]).expect("a header");
            fs::write(scene.input(name), &header).expect("room for a header");
            let file = File::options().write(true).open(scene.input(name)).expect("an input");
            file.set_len(header.len() as u64 + scene.bytes()).expect("a sparse file");
        }
        scene
    }

    /// A job that takes about a second, so that things can happen meanwhile.
    fn slow() -> Self {
        Self::sparse(32 << 10)
    }

    fn bytes(&self) -> u64 {
        self.rows * WIDTH * 4
    }

    fn input(&self, name: &str) -> PathBuf {
        self.root.path().join(format!("{name}.safetensors"))
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("out")
    }

    fn output(&self) -> PathBuf {
        self.folder().join("merged.safetensors")
    }

    /// `0.25 a + 0.75 b`, written as `target`.
    fn job(&self, target: &Value) -> Job {
        let source = |name| {
            let path = self.input(name);
            let file = File::open(&path).expect("an input");
            let identity = FileIdentity::of(&file, &path).expect("an identity");
            json!({"file": {"path": path, "identity": identity}})
        };
        let rows = |source| json!([{"rows": {"source": source, "tensor": "t", "start": 0, "end": self.rows}}]);
        let file = if target.get("folder").is_some() { "model.safetensors" } else { "" };
        let plan = json!({
            "version": 1, "overflow": "saturate", "target": target,
            "sources": [source("a"), source("b")],
            "files": [{"path": file, "metadata": {"format": "pt"}}],
            "texts": [], "copies": [],
            "outputs": [{"file": 0, "name": "t", "dtype": "F32", "shape": [self.rows, WIDTH]}],
            "units": [{"name": "t", "output": 0, "start": 0, "end": self.rows,
                "operands": [rows(0), rows(1)], "op": {"linear": {"weights": [0.25, 0.75]}}}],
        });
        let options = json!({
            "mode": "write", "threads": 2, "chunk": 1 << 18, "memory_budget": 64 << 20,
            "io": "auto", "cache": "drop", "overwrite": false, "stats": true, "isa": "auto",
            "max_header_bytes": 1000,
        });
        Job { plan, options }
    }

    fn to_file(&self) -> Job {
        self.job(&json!({"file": {"path": self.output()}}))
    }

    /// The names in the folder of the output, hidden ones included.
    fn left(&self) -> Vec<String> {
        names(&self.folder())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry).into_string().expect("a name in UTF-8")).collect();
    names.sort();
    names
}

/// A plan and how to run it.
struct Job {
    plan: Value,
    options: Value,
}

impl Job {
    fn option(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.options[name] = value.into();
        self
    }

    /// Slow on any machine: one thread, no vector instructions.
    fn slowly(self) -> Self {
        self.option("threads", 1).option("isa", "scalar")
    }

    fn run(&self) -> Result<()> {
        self.watched(&mut |_, _| Ok(()))
    }

    fn report(&self) -> Result<Report> {
        let (plan, options) = (self.plan.to_string(), self.options.to_string());
        execute(&plan, &options, &AtomicBool::new(false), &mut |_, _| Ok(()))
    }

    fn watched(&self, observer: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let (plan, options) = (self.plan.to_string(), self.options.to_string());
        execute(&plan, &options, &AtomicBool::new(false), observer).map(|_| ())
    }

    fn refused(&self) -> Error {
        self.run().expect_err("a refusal")
    }

    /// Run in a process of its own; `scene` keeps the job and the outcome.
    fn spawn(&self, scene: &Scene) -> Running {
        let file = scene.root.path().join("job.json");
        let text = json!({"plan": self.plan.to_string(), "options": self.options.to_string()});
        fs::write(&file, text.to_string()).expect("room for the job");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "child"]).env(CHILD, &file).stdout(std::process::Stdio::null());
        Running { child: command.spawn().expect("a second process"), file }
    }
}

/// A job in another process.
struct Running {
    child: Child,
    file: PathBuf,
}

impl Running {
    /// Wait until the job has written so many bytes; panics if it ends before.
    fn until_written(&mut self, bytes: u64) {
        let begun = Instant::now();
        while self.written() < bytes {
            let ended = self.child.try_wait().expect("a child");
            assert!(
                ended.is_none(),
                "the job ended ({ended:?}) before anything could happen to it"
            );
            assert!(begun.elapsed() < Duration::from_secs(60), "the job hangs");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Bytes written by the process so far, by whatever call.
    fn written(&self) -> u64 {
        let counters = fs::read_to_string(format!("/proc/{}/io", self.child.id()));
        let counters = counters.unwrap_or_default();
        let line = counters.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.map_or(0, |n| n.parse().expect("a number"))
    }

    /// Wait for the end: the message, or `ok`. Panics if the process did not survive.
    fn outcome(mut self) -> String {
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the host died: {status}");
        fs::read_to_string(self.file.with_extension("outcome")).expect("an outcome")
    }
}

/// Not a test by itself: the body of the second process.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let text = fs::read_to_string(&path).expect("a job");
    let job: Value = serde_json::from_str(&text).expect("a job");
    let part = |name: &str| job[name].as_str().expect("a document").to_owned();
    let never = AtomicBool::new(false);
    let result = execute(&part("plan"), &part("options"), &never, &mut |_, _| Ok(()));
    let outcome = result.map_or_else(|e| e.to_string(), |_| "ok".to_owned());
    fs::write(path.with_extension("outcome"), outcome).expect("room for the outcome");
}
