"""`hecate`: finds the command, runs it, and turns whatever happens into an exit status."""

import contextlib
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, NoReturn

from typer import Exit, Option, Typer
from typer.main import get_command

import hecate_core
from hecate_core.cli import (
    bench,
    build,
    check,
    compare,
    demo,
    doctor,
    evaluate,
    generate,
    new,
    plugins,
    strangers,
    sweep,
)
from hecate_core.cli import report as reports
from hecate_core.cli.command import command
from hecate_core.cli.faults import report
from hecate_core.stopping import hear_sigterm

# A command's file imports torch and what stands on it inside the function, so that help stays quick.
OURS: dict[str, Callable[..., int | None]] = {
    "demo": demo.demo,
    "build": build.build,
    "generate": generate.generate,
    "eval": evaluate.evaluate,
    "sweep": sweep.sweep,
    "compare": compare.compare,
    "report": reports.report,
    "bench": bench.bench,
    "check": check.check,
    "new": new.new,
    "plugins": plugins.plugins,
    "doctor": doctor.doctor,
}


def entry() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    hear_sigterm()
    # torch tells every user of autocast that a fused norm is not taken; nobody can do anything about it
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command line; errors become a line on stderr and the status returned."""
    debug = "--debug" in argv[: argv.index("--")] if "--" in argv else "--debug" in argv
    try:
        if argv and not argv[0].startswith("-") and argv[0] not in OURS:
            return strangers.run(argv[0], argv[1:], OURS)
        made = get_command(_app())
        return int(made.main(args=argv or ["--help"], prog_name="hecate", standalone_mode=False) or 0)
    except BrokenPipeError:
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return report(error, debug=debug)


def _app() -> Typer:
    app = Typer(
        name="hecate",
        help="Sequence models whose memory learns while it reads.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for name, function in OURS.items():
        app.command(name)(command(function))
    for name, origin in strangers.commands(OURS).items():
        app.command(name, help=f"Command of {origin.distribution} {origin.version}.")(_listed)
    return app


def _root(version: Annotated[bool, Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"hecate {hecate_core.__version__}")
        raise Exit(0)


def _listed() -> None:
    """Stands in the help for a command of another distribution, which is run without parsing."""
