"""Compiles kernels with NVRTC: text in, cubin and resource use out. Imports neither torch nor hecate_core.

Also a program, so that a stranger's source is compiled outside the asking process:
`python nvrtc_worker.py JOBS RESULTS SECONDS`, two JSON files (see `Job` and `Compiled`); it ends by SIGALRM where one
job takes longer than so many seconds.
"""

import io
import json
import re
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

_ENTRY = re.compile(r"Compiling entry function '([^']+)'(.*?)(?=Compiling entry function|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Job:
    """One text to compile for one architecture, such as `sm_90a`."""

    text: str
    symbol: str
    arch: str
    constants: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What came of a job: the compiler's log and what one kernel uses per thread and block, in bytes.

    `entry` is the name that the compiler gave it, mangled where it is not `extern "C"`; "" where it is not there.
    """

    log: str
    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    failed: bool = False
    entry: str = ""


def options(job: Job, report: bool = False) -> "object":
    """Compile options of a job; `report` asks ptxas for registers and spills (a cache hit has no log)."""
    from cuda.core import ProgramOptions

    macros = [(name, str(value)) for name, value in job.constants]
    extra = {"ptxas_options": ["-v"]} if report else {}
    return ProgramOptions(
        name="kernel",
        arch=job.arch,
        std="c++17",
        lineinfo=True,
        device_as_default_execution_space=True,  # lambdas inside a kernel are device code
        define_macro=macros or None,
        **extra,
    )


def compile_cubin(job: Job, report: bool = False) -> tuple[bytes, Compiled]:
    """The cubin and the resource use; an empty cubin and `failed` where it does not compile."""
    from cuda.core import Program

    logs = io.StringIO()
    try:
        program = Program(job.text, "c++", options=options(job, report))
        code = program.compile("cubin", logs=logs).code
    except Exception as error:  # NVRTC's own error class is private; its message carries the log
        return b"", Compiled(log=f"{logs.getvalue()}\n{error}", failed=True)
    return bytes(code), parse_report(logs.getvalue(), job.symbol)


def parse_report(log: str, symbol: str) -> Compiled:
    """Registers, spilled bytes and static shared memory of `symbol` from ptxas' report."""
    parts = dict(_ENTRY.findall(log))
    mangled = re.compile(rf"_ZL?{len(symbol)}{re.escape(symbol)}")
    entry = symbol if symbol in parts else next((name for name in parts if mangled.match(name)), "")
    part = parts.get(entry, "")

    def number(pattern: str) -> int:
        found = re.search(pattern, part)
        return int(found[1]) if found else 0

    spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return Compiled(log, number(r"Used (\d+) registers"), spills, number(r"(\d+) bytes smem"), entry=entry)


def main(jobs: str, results: str, seconds: str) -> int:
    """Compile every job of one file; one line of JSON per result, written as it comes."""
    with open(results, "w") as out:
        for item in json.loads(Path(jobs).read_text()):
            job = Job(item["text"], item["symbol"], item["arch"], tuple((n, v) for n, v in item["constants"]))
            signal.alarm(int(seconds))  # by default it ends the process, whatever the compiler is at
            _, compiled = compile_cubin(job, report=True)
            out.write(json.dumps(asdict(compiled)) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
