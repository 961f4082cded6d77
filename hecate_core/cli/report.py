"""`hecate report`: runs and what every level of their memory does, as one HTML file."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hecate_core.cli.output import Output

Runs = Annotated[list[Path], Argument(metavar="RUN...", help="Folders made by hecate build.")]
Out = Annotated[Path, Option("-o", "--out", metavar="FILE.html", help="The file that is written.")]
Tokens = Annotated[int, Option("--tokens", help="Length of the held-out text that the memory reads.")]


def report(output: Output, runs: Runs, out: Out = Path("report.html"), tokens: Tokens = 256) -> None:
    """Write one self-contained HTML file about runs: losses, pace, and every level of their memory."""
    from hecate_core import files
    from hecate_core.reporting.run import report as written

    text, levels = written(runs, tokens=tokens)
    files.write_text(out, text)
    for name, read in {row["run"]: row["tokens"] for row in levels if row["tokens"] < tokens}.items():
        output.note(f"{name}: no held-out text of {tokens} tokens; {read} were read")
    lines = [f"report  {out}", *(
        f"{row['run']}: {row['level']}  {row['state']}"
        + (f" ({'; '.join(row['reasons'])})" if row["reasons"] else "")
        for row in levels
    )]  # fmt: skip
    output.result("hecate.reports/1", {"reports": [{"path": str(out), "levels": levels}]}, lines)
