"""Lints in worker processes: a parser that crashes or hangs costs its own file and nothing else.

Workers are forked, so they start with the rules loaded. Each file has a limit in CPU seconds, which the kernel
enforces on the worker; the parent starts another worker and says what happened. Wall time limits nothing: on a busy
machine a worker may wait for minutes, and no finding may come of that. Results are keyed by file, so neither the
number of workers nor their timing can show in the output.
"""

import contextlib
import gc
import marshal
import os
import resource
import select
import signal
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

GC_THRESHOLDS = (50_000, 20, 50)  # syntax trees are many objects that live as long as their file: a fifth of the time
MEMORY_BYTES = 1 << 30  # address space a worker may use: a file that needs more is not finished


@dataclass
class _Worker:
    pid: int
    to: int
    back: int
    item: str | None = None
    buffer: bytes = b""


class BrokenError(RuntimeError):
    """A worker ended on an item; the message says how."""


def run(
    items: Iterable[str], work: Callable[[str], dict[str, Any]], jobs: int, limit_s: float
) -> dict[str, dict[str, Any] | BrokenError]:
    """`work(item)` for each item in at most `jobs` processes; a crash or timeout is a `BrokenError` in its place."""
    todo = list(dict.fromkeys(items))[::-1]
    results: dict[str, dict[str, Any] | BrokenError] = {}
    if not hasattr(os, "fork"):
        return {item: work(item) for item in reversed(todo)}
    workers: list[_Worker] = []
    try:
        while todo or any(worker.item is not None for worker in workers):
            while todo and len(workers) < max(1, jobs):
                workers.append(_start(work, limit_s, workers))
            for worker in workers:
                if worker.item is None and todo:
                    worker.item = todo.pop()
                    _send(worker, worker.item)
            _collect(workers, results, limit_s)
    finally:
        for worker in workers:
            _stop(worker)
    return results


def _collect(workers: list[_Worker], results: dict[str, dict[str, Any] | BrokenError], limit_s: float) -> None:
    busy = {worker.back: worker for worker in workers if worker.item is not None}
    ready, _, _ = select.select(list(busy), [], [])
    for back in ready:
        worker = busy[back]
        data = os.read(back, 1 << 20)
        item = worker.item or ""
        if not data:
            _, status = os.waitpid(worker.pid, 0)
            results[item] = BrokenError(_how(status, limit_s))
            _close(worker)
            workers.remove(worker)
            continue
        worker.buffer += data
        if len(worker.buffer) >= 4 and len(worker.buffer) >= 4 + struct.unpack("<I", worker.buffer[:4])[0]:
            results[item] = marshal.loads(worker.buffer[4:])
            worker.item, worker.buffer = None, b""


def _start(work: Callable[[str], dict[str, Any]], limit_s: float, others: list[_Worker]) -> _Worker:
    ours_read, to = os.pipe()
    back, ours_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ours_read)
        os.close(ours_write)
        return _Worker(pid, to, back)
    try:
        for other in others:
            _close(other)
        os.close(to)
        os.close(back)
        _serve(ours_read, ours_write, work, limit_s)
    except BaseException:  # a worker must never fall back into the parent's code
        os._exit(70)
    os._exit(0)


def _serve(read: int, write: int, work: Callable[[str], dict[str, Any]], limit_s: float) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _mapped_bytes() + MEMORY_BYTES  # whoever calls us may have mapped much before the fork
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with os.fdopen(read, "rb") as stream:
        while size := stream.read(4):
            item = stream.read(struct.unpack("<I", size)[0]).decode("utf-8", "surrogateescape")
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            answer = marshal.dumps(work(item))
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(write, struct.pack("<I", len(answer)) + answer)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _send(worker: _Worker, item: str) -> None:
    data = item.encode("utf-8", "surrogateescape")
    with contextlib.suppress(BrokenPipeError):  # the worker died; reading its answer says how
        _write(worker.to, struct.pack("<I", len(data)) + data)


def _how(status: int, limit_s: float) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGPROF:
            return f"not finished within {limit_s:g} s of CPU time"
        return f"the parser crashed ({signal.Signals(number).name})"
    return f"the worker ended with status {os.waitstatus_to_exitcode(status)}"


def _close(worker: _Worker) -> None:
    for descriptor in (worker.to, worker.back):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _stop(worker: _Worker) -> None:
    _close(worker)
    if worker.item is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(worker.pid, 0)


def _mapped_bytes() -> int:
    """The address space that this process has mapped already; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0
