"""What each exit status means, as docs/cli.md prints it."""

from hecate_core.errors import ExitCode

MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FOUND: "the check found something, or runs differ",
    ExitCode.WRONG_INPUT: "wrong input: arguments, config, a name that nobody provides, a tool that is not here",
    ExitCode.PLUGIN_FAILED: "a plugin that is needed does not load, or fails",
    ExitCode.UNREADABLE: "data or a checkpoint cannot be read, or the disk refuses",
    ExitCode.DIVERGED: "a run produced a number that is not finite",
    ExitCode.OUR_BUG: "a fault of ours; the traceback is in a file whose path is printed",
    ExitCode.INTERRUPTED: "interrupted; `hecate build` saves a checkpoint first and prints how to go on",
    ExitCode.TERMINATED: "terminated by SIGTERM; otherwise as an interrupt",
}


def table() -> str:
    """The Markdown table of all exit codes."""
    rows = [f"| {code.value} | {MEANINGS[code]} |" for code in ExitCode]
    return "\n".join(["| status | meaning |", "|--:|---|", *rows]) + "\n"
