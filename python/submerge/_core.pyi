"""The compiled core: a plan goes in as JSON, numbers about the work come out as JSON.

The core knows no model family and no default value; `submerge.run` is its only caller besides
`submerge.checkpoint`. It raises the classes of `submerge.errors`; failures of the operating
system are `OSError` with the path and, as a note, a hint.
"""

from collections.abc import Callable, Sequence
from mmap import mmap
from typing import final

__all__ = ["Job", "Reader", "build_info", "execute", "read_header"]

@final
class Job:
    """A handle on one execution; any thread may cancel it."""

    def __new__(cls) -> Job: ...
    def cancel(self) -> None:
        """Ask the execution to stop; it does within 250 ms and leaves nothing behind."""

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""

@final
class Reader:
    """A file of weights held open, read into memory of the caller's; any thread may use it.

    Args:
        path: the file.
        identity: what `read_header` says its identity is, as JSON.

    Raises:
        CheckpointError: another file stands there now, or it was written meanwhile.
        OSError: the file cannot be opened.
    """

    def __new__(cls, path: str, identity: str) -> Reader: ...
    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill a buffer of bytes from the file; other threads run meanwhile.

        Args:
            offset: bytes from the beginning of the file.
            buffer: writable bytes in one dimension; what they hold after an error means nothing.

        Raises:
            CheckpointError: the file was cut short, written or replaced since it was opened.
            PlanError: the range does not lie in the file, or the reader was closed.
            OSError: the file cannot be read, or is no longer there.
        """

    def check(self) -> None:
        """Raise as `read_into` would, reading nothing."""

    def close(self) -> None:
        """Let the file go; to close again does nothing."""

def read_header(path: str, max_header_bytes: int) -> str:
    """Return the checked header of a safetensors or GGUF file.

    Args:
        path: the file.
        max_header_bytes: refuse a header longer than this.

    Returns:
        JSON `{"path", "size", "data_start", "container": "safetensors" or "gguf", "identity":
        {"dev", "ino", "size", "mtime_ns", "ctime_ns"}, "metadata": {str: str}, "tensors": [{"name",
        "dtype", "shape", "start", "end"}]}` with the tensors in data order and byte offsets inside
        the data section. A tensor of ggml's blocks is rows of bytes, `U8`; it also has `codec`, the
        name of its type, and `logical`, its shape in elements.

    Raises:
        CheckpointError: the file is damaged or of another format.
        OSError: the file cannot be read.
    """

def execute(
    plan: str,
    options: str,
    job: Job,
    progress: Callable[[int, int], object] | None,
    describe: Callable[[list[int]], dict[str, str]] | None = None,
    into: Sequence[bytearray | memoryview | mmap] | None = None,
) -> str:
    """Carry a plan out and return what was done.

    Args:
        plan: the plan, version 1, as JSON.
        options: `{"mode": "write" | "measure" | "check" | "fit", "threads", "chunk",
            "memory_budget", "io": "auto" | "mmap" | "pread", "cache": "drop" | "keep",
            "overwrite", "stats", "isa": "auto" | "scalar" | "avx2" | "avx512" | "neon",
            "max_header_bytes", "statistics": {key: [integers]} | null}` as JSON, sizes in bytes.
            `fit` does nothing but say how the plan would run. `statistics` are those that earlier
            executions returned; with null none are returned.
        job: the handle to cancel with; one for each execution.
        progress: called as `progress(done_bytes, total_bytes)` on the calling thread, at most ten
            times a second; returning False cancels, raising cancels and raises.
        describe: called once with the rank of each module of an adapter, 0 for what is no product;
            returns the metadata of its header, at most as long as what the plan holds.
        into: writable memory for the data of each weight file, without its header, instead of the
            plan's target; after an error, what it holds means nothing.

    Returns:
        JSON `{"units": [{"unit", "elements", "changed", "nonfinite", "nonfinite_out", "zero",
        "norm2", "dot", "delta2"}], "modules": [{"name", "rank", "norm2", "residual2"}],
        "bytes_read", "bytes_written", "seconds", "phases", "threads", "chunk", "io", "isa",
        "working_bytes", "peak_rss", "statistics_computed", "statistics_reused", "statistics"}`.

    Raises:
        PlanError: plan and files do not fit together, or a file changed meanwhile.
        Cancelled: the job was cancelled.
        InternalError: a defect of the core.
        OSError: a file cannot be read or written.
    """

def build_info() -> str:
    """Return JSON of version, numerics, profile, plan version, instruction sets and dtypes.

    `ops` are the operations a plan may name, `families` what it may name inside of some.
    """
