"""Untrusted sources are compiled and run in a child process with limits, never in this one."""

import contextlib
import os
import resource
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

import attrs

from hecate_kernels.failure import MachineError

OUTPUT_BYTES = 1 << 20  # of what a child prints are kept
MOST_PRINTED = 64 << 20  # bytes; a child that prints more is stopped


@attrs.frozen
class Limits:
    """What a child may use: wall and processor seconds, MiB of address space (None: sanitizers map terabytes)."""

    wall_s: int = 60
    cpu_s: int = 60
    memory_mib: int | None = 4096
    file_mib: int = 1024


@attrs.frozen
class Finished:
    """How a child ended. `status` is negative for a signal and None when it was stopped; `excess` says for what."""

    status: int | None
    text: str
    excess: str = ""  # "ran longer than 60 s"

    @property
    def stopped(self) -> bool:
        """Whether a limit on time or output ended it."""
        return self.status is None


def run(
    command: Sequence[str],
    limits: Limits,
    environment: Mapping[str, str] | None = None,
    fixed_addresses: bool = False,
) -> Finished:
    """Run a command in a session of its own under `limits`; its output is one text, stderr included.

    Whatever ends the wait, an interrupt too, ends the child and all of its process group. `fixed_addresses` turns
    address randomisation off, which ThreadSanitizer's memory layout needs on kernels that randomise many bits.
    Raises MachineError where no process can be started.
    """
    prefix = ["setarch", "-R"] if fixed_addresses and shutil.which("setarch") else []
    whole = ["/bin/sh", "-c", f'{_limiting(limits)}; exec "$@"', "sh", *prefix, *command]
    try:
        process = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise MachineError.of(command[0], error, "a process has to be started") from error
    with process:
        try:
            output, excess = _watched(process, limits.wall_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    status = process.returncode
    if status > 128:
        status = 128 - status  # the shell's way of naming a signal
    if not excess and status == -signal.SIGXCPU:
        excess = f"ran longer than {limits.cpu_s} s"
    return Finished(None if excess else status, output.decode(errors="replace"), excess)


def _limiting(limits: Limits) -> str:
    """The limits in the words of the shell; where this process has narrower ones, those stay."""
    wanted = [
        ("-c", resource.RLIMIT_CORE, 0, 512),
        ("-f", resource.RLIMIT_FSIZE, limits.file_mib << 20, 512),
        ("-S -t", resource.RLIMIT_CPU, limits.cpu_s, 1),
        ("-H -t", resource.RLIMIT_CPU, limits.cpu_s + 5, 1),  # SIGXCPU comes first and tells that it was the time
    ]
    if limits.memory_mib is not None:
        wanted.append(("-v", resource.RLIMIT_AS, limits.memory_mib << 20, 1024))
    words = []
    for flag, which, most, unit in wanted:
        held = resource.getrlimit(which)[1]
        words.append(f"ulimit {flag} {(most if held == resource.RLIM_INFINITY else min(most, held)) // unit}")
    return "; ".join(words)


def _watched(process: "subprocess.Popen[bytes]", wall_s: float) -> tuple[bytes, str]:
    """What a child prints until it ends, and which limit it passed before, if any.

    What it leaves behind may hold the pipe open, and it may close the pipe and go on: neither is waited for.
    """
    assert process.stdout is not None
    pipe, deadline = process.stdout.fileno(), time.monotonic() + wall_s
    kept, seen, is_open, pause = bytearray(), 0, True, 0.001
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if is_open and selector.select(min(left, 0.1)):
                piece = os.read(pipe, 1 << 16)
                is_open = bool(piece)
                seen += len(piece)
                kept += piece[: OUTPUT_BYTES - len(kept)]
                if seen > MOST_PRINTED:
                    return bytes(kept), f"printed more than {MOST_PRINTED >> 20} MiB"
            elif _has_ended(process.pid):
                return bytes(kept), ""
            elif not is_open:
                time.sleep(min(left, pause))
                pause = min(0.1, 2 * pause)
    return bytes(kept), f"ran longer than {wall_s} s"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it is not reaped yet, so that nobody else gets its number."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
