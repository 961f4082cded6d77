"""Commands of other distributions, by the entry point group `hecate.commands`.

An entry point names a function `main(argv: list[str]) -> int`; it gets everything after its name, unparsed.
Names of ours cannot be taken; a name that two distributions give is reached by `distribution:name`.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any, cast

from hecate_core.errors import ExitCode, HecateError, InputError, PluginError, nearest
from hecate_core.hooks import COMMANDS
from hecate_core.registry import Disabled, Origin, discover
from hecate_core.registry.oneline import told


def commands(ours: Iterable[str]) -> dict[str, Origin]:
    """Every command that is not disabled, by the shortest name that reaches it; nothing is imported."""
    disabled = Disabled.of()
    origins = [origin for origin in discover(group=COMMANDS) if not disabled.reason(origin)]
    bare = [origin.entry_point for origin in origins]
    taken = {name for name in bare if bare.count(name) > 1} | set(ours)
    return {address(origin) if origin.entry_point in taken else origin.entry_point: origin for origin in origins}


def address(origin: Origin) -> str:
    """The name that nobody can take: `distribution:name`."""
    return f"{origin.distribution}:{origin.entry_point}"


def run(name: str, argv: list[str], ours: Iterable[str]) -> int:
    """Run the command called `name` and return its exit status.

    Raises InputError for a name that nobody or more than one provides, PluginError when the command
    does not load or fails with anything but an error meant for a reader.
    """
    ours = list(ours)
    known = commands(ours)
    addressed = {address(origin): origin for origin in known.values()}
    origin = known.get(name) or addressed.get(name)
    if origin is None:
        owners = sorted(key for key, one in addressed.items() if one.entry_point == name)
        if owners:
            raise InputError(f'hecate: command "{name}" is provided twice; write {" or ".join(owners)}')
        raise InputError(f'hecate: no command "{name}"{nearest(name, [*ours, *known])}')
    try:
        return int(_loaded(origin)(argv) or ExitCode.DONE)
    except (HecateError, KeyboardInterrupt, BrokenPipeError):
        raise
    except SystemExit as exit_:
        return _status(exit_)
    except BaseException as error:  # a stranger's command may raise anything
        raise PluginError(f"{_place(origin)} failed: {told(error)}") from error


def _loaded(origin: Origin) -> Callable[[list[str]], int | None]:
    module, _, attributes = origin.module.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as above
        raise PluginError(f"{_place(origin)} failed to import {origin.module}: {told(error)}") from error
    if not callable(found):
        raise PluginError(f"{_place(origin)}: {origin.module} is no function; expected main(argv) -> int")
    return cast(Callable[[list[str]], int | None], found)


def _place(origin: Origin) -> str:
    return f'command "{origin.entry_point}" of {origin.distribution} {origin.version}'


def _status(exit_: SystemExit) -> int:
    if exit_.code is None:
        return ExitCode.DONE
    if isinstance(exit_.code, int):
        return exit_.code
    raise InputError(str(exit_.code)) from exit_
