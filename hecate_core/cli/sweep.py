"""`hecate sweep`: a grid of runs from one file, checked before it starts, resumed where it stopped."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hecate_core.cli.output import Output
from hecate_core.errors import ExitCode, InputError

File = Annotated[Path, Argument(metavar="FILE.toml", help="base, seeds, grid; see docs/evidence.md.")]
Out = Annotated[Path | None, Option("--out", metavar="DIR", help="Where the runs go (default: runs/FILE).")]
Jobs = Annotated[int, Option("--jobs", help="Runs at a time, one thread each.")]
Save = Annotated[Path | None, Option("--save", metavar="FILE.json", help="Pack recipes and numbers, for --replay.")]
NoCheck = Annotated[bool, Option("--no-check", help="Only compose every cell; start without hecate check of it.")]
Resume = Annotated[bool, Option("--resume", help="Go on with a sweep that was stopped.")]


def sweep(
    output: Output,
    file: File,
    out: Out = None,
    jobs: Jobs = 1,
    resume: Resume = False,
    save: Save = None,
    no_check: NoCheck = False,
) -> int:
    """Run a grid of configs and seeds."""
    from hecate_core import files
    from hecate_core.cli.build import resolved
    from hecate_core.evidence import pack, save_evidence
    from hecate_core.sweeping import (
        check_cells,
        demand_checked,
        demand_same,
        final_of,
        read_sweep,
        run_cells,
        table_of,
    )

    if jobs < 1:
        raise InputError(f"--jobs {jobs}; expected an integer >= 1")
    made = read_sweep(file)
    folder = out if out is not None else Path("runs") / file.stem
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise InputError(f"{folder}: holds a sweep already; use --resume to go on with it or another --out")
    if save is not None and (not save.parent.is_dir() or save.is_dir()):
        raise InputError(f"--save {save}: no file can be written there; expected a name in a folder that exists")
    base = resolved(made.base)
    cells = list(check_cells(made, base))
    begun = resume and folder.is_dir()
    with ExitStack() as held:
        if begun:
            held.enter_context(files.exclusive(folder))
            demand_same(cells, folder)
        waiting = [(cell, config) for cell, config in cells if final_of(folder / cell.path) is None]
        kinds = 0 if no_check else demand_checked(waiting, tell=output.note)
        output.note(f"{len(cells)} runs, {'unchecked' if no_check else f'{kinds} kinds of them pass hecate check'}")
        if not begun:
            held.enter_context(files.exclusive(files.make_folder(folder)))
        try:
            run_cells(made, base, folder, jobs=jobs, tell=output.note)
        except KeyboardInterrupt:
            output.note(f"interrupted; continue with: hecate sweep {file} --out {folder} --resume")
            raise
        rows = table_of(made, folder)
        files.write_json(folder / "table.json", {"schema": "hecate.sweep/1", "rows": rows})
        if save is not None:
            save_evidence(save, pack((row["cell"], folder / row["cell"]) for row in rows if not row.get("failed")))
    lines = ["  ".join(f"{key}={value}" for key, value in row.items() if key != "cell") for row in rows]
    output.result("hecate.sweep/1", {"rows": rows}, lines)
    return ExitCode.FOUND if any(row.get("failed") for row in rows) else ExitCode.DONE
