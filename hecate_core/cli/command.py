"""What every command of ours shares: `--json`, `--no-plugins`, `--debug`, and its Output."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

from typer import Option

from hecate_core.cli.faults import report
from hecate_core.cli.output import Output
from hecate_core.errors import ExitCode
from hecate_core.registry import install

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of lines.")]
NoPlugins = Annotated[bool, Option("--no-plugins", help="Leave every installed plugin but core out.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks.")]

_SHARED = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
    for name, annotation in (("as_json", Json), ("no_plugins", NoPlugins), ("debug", Debug))
]


def command(function: Callable[..., int | None]) -> Callable[..., int]:
    """A typer command made from `function(output, ...)`, whose return value is the exit status (None: 0).

    The command has the function's other parameters and the shared options.
    """
    signature = inspect.signature(function)
    own = [parameter for name, parameter in signature.parameters.items() if name != "output"]

    @functools.wraps(function)
    def run(*, as_json: bool, no_plugins: bool, debug: bool, **given: Any) -> int:
        if no_plugins:
            install(strangers=False)
        try:
            return int(function(output=Output(as_json=as_json, debug=debug), **given) or ExitCode.DONE)
        except KeyboardInterrupt as error:  # typer would make it a bare number
            return report(error, debug=debug)
        except BrokenPipeError:  # whoever read stdout has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.DONE

    shared = [*own, *_SHARED]
    run.__signature__ = signature.replace(parameters=shared, return_annotation=int)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shared}
    return run
