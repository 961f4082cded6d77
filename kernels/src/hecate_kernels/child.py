"""Untrusted sources are compiled and run in a child process with limits, never in this one."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

import attrs

OUTPUT_BYTES = 1 << 20


@attrs.frozen
class Limits:
    """What a child may use: wall and processor seconds, MiB of address space (None: sanitizers map terabytes)."""

    wall_s: int = 60
    cpu_s: int = 60
    memory_mib: int | None = 4096
    file_mib: int = 1024


@attrs.frozen
class Finished:
    """How a child ended. `status` is negative for a signal and None when it was stopped for its time."""

    status: int | None
    text: str

    @property
    def stopped(self) -> bool:
        """Whether a time limit ended it."""
        return self.status is None or self.status == -signal.SIGXCPU


def run(
    command: Sequence[str],
    limits: Limits,
    environment: Mapping[str, str] | None = None,
    fixed_addresses: bool = False,
) -> Finished:
    """Run a command in a session of its own under `limits`; its output is one text, stderr included.

    `fixed_addresses` turns address randomisation off, which ThreadSanitizer's memory layout needs on
    kernels that randomise many bits.
    """
    script = f"ulimit -c 0; ulimit -t {limits.cpu_s}; ulimit -f {limits.file_mib * 2048}"  # 512-byte units
    if limits.memory_mib is not None:
        script += f"; ulimit -v {limits.memory_mib * 1024}"
    prefix = ["setarch", "-R"] if fixed_addresses and shutil.which("setarch") else []
    whole = ["/bin/sh", "-c", f'{script}; exec "$@"', "sh", *prefix, *command]
    process = subprocess.Popen(
        whole,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limits.wall_s)
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    if status is not None and status > 128:
        status = 128 - status  # the shell's way of naming a signal
    return Finished(status, output[:OUTPUT_BYTES].decode(errors="replace"))
