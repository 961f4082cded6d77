"""The second stage: a plugin's module, imported alone, so that a broken one never stops the rest."""

import contextlib
import importlib
import inspect
import re
import sys
from types import ModuleType

import pluggy

from hecate_core import hooks
from hecate_core.errors import nearest
from hecate_core.registry.oneline import one_line, told, told_in_full
from hecate_core.registry.origin import Component, Origin, Plugin, PluginState

HOOK = "hecate_components"
PREFIX = "hecate_"  # functions of a plugin module that look like hooks
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
TARGET = re.compile(rf"{MODULE.pattern}:{MODULE.pattern}")


class _UnusableError(Exception):
    """A plugin module that cannot serve; its text is the reason in one line."""

    state = PluginState.BROKEN


class _ForeignError(_UnusableError):
    """A plugin module for another version of the contract."""

    state = PluginState.INCOMPATIBLE


def load(origin: Origin) -> Plugin:
    """Import one plugin module and ask it for its components.

    Whatever it raises ends here, SystemExit included, and becomes the reason of a broken plugin;
    only KeyboardInterrupt passes. What it prints goes to stderr, because stdout is the result.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = _imported(origin)
            _check_version(module)
            _check_hooks(module)
            components = tuple(_components(_answer(module), origin))
    except _UnusableError as unusable:
        trace = told_in_full(unusable.__cause__) if unusable.__cause__ else ""
        return Plugin(origin, unusable.state, one_line(str(unusable)), trace=trace)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an answer that misbehaves when it is looked at
        return Plugin(origin, PluginState.BROKEN, f"hands over what cannot be read: {told(error)}")
    return Plugin(origin, PluginState.OK, components=components)


def _imported(origin: Origin) -> ModuleType:
    if not MODULE.fullmatch(origin.module):
        where = f'entry point {origin.entry_point} = "{origin.module}"' if origin.module else "its entry_points.txt"
        raise _UnusableError(f"{where} cannot be read; expected the path of a module, as in acme_rules.plugin")
    try:
        return importlib.import_module(origin.module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's module may raise anything
        raise _UnusableError(f"failed to import {origin.module}: {told(error)}") from error


def _check_version(module: ModuleType) -> None:
    version = getattr(module, "HECATE_API", 1)
    if type(version) is not int or version != hooks.API_VERSION:
        raise _ForeignError(
            f"{module.__name__} is written for plugin API {version!r}; this hecate-core speaks {hooks.API_VERSION}, "
            "install releases that agree"
        )


def _check_hooks(module: ModuleType) -> None:
    """Refuse misspelt hooks, unmarked ones, wrappers and arguments, each by its name."""
    marked = f"{hooks.PROJECT}_impl"
    for name, function in sorted(vars(module).items()):
        if not inspect.isroutine(function):
            continue
        options = getattr(function, marked, None)
        if isinstance(options, dict):
            hook = options.get("specname") or name
            if hook != HOOK:
                raise _UnusableError(f'"{hook}" is not a hook{nearest(hook, [HOOK])}')
        elif name.startswith(PREFIX) and getattr(function, "__module__", "") == module.__name__:
            raise _UnusableError(f"{module.__name__}.{name} lacks @hookimpl{_hint(name)}")


def _hint(name: str) -> str:
    return "; mark it" if name == HOOK else f" and is not a hook{nearest(name, [HOOK])}"


def _answer(module: ModuleType) -> object:
    """What the hook returns, through a plugin manager of its own."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(module)
        answers = getattr(manager.hook, HOOK)()
    except KeyboardInterrupt:
        raise
    except pluggy.PluginValidationError as error:
        raise _UnusableError(
            f"{HOOK} has another signature than its specification; expected `def {HOOK}():` without arguments"
        ) from error
    except BaseException as error:
        raise _UnusableError(f"{HOOK} failed: {told(error)}") from error
    return answers[0] if answers else []


def _components(answer: object, origin: Origin) -> list[Component]:
    """The answer as components, sorted; the first row that is wrong is named."""
    if not isinstance(answer, (list, tuple)):
        raise _UnusableError(f"{HOOK} returned {type(answer).__name__}; expected a list of (kind, name, target)")
    found: dict[tuple[str, str], Component] = {}
    for index, row in enumerate(answer):
        component = _component(row, f"{HOOK}()[{index}]", origin)
        if (component.kind, component.name) in found:
            raise _UnusableError(f'hands over {component.kind} "{component.name}" twice; a name is unique per kind')
        found[component.kind, component.name] = component
    if not found:
        raise _UnusableError(f"contributes nothing; {origin.module} should return components from {HOOK}")
    return sorted(found.values())


def _component(row: object, place: str, origin: Origin) -> Component:
    if not (isinstance(row, (list, tuple)) and len(row) == 3 and all(isinstance(part, str) for part in row)):
        raise _UnusableError(f'{place} = {row!r}; expected three strings (kind, name, "module:Class")')
    kind, name, target = map(str, row)
    if kind not in hooks.KINDS:
        raise _UnusableError(f'{place}: unknown kind "{kind}"{nearest(kind, hooks.KINDS)}')
    if not NAME.fullmatch(name):
        raise _UnusableError(f'{place}: name "{name}"; expected lower-case letters, digits, "-", "_" and "."')
    if not TARGET.fullmatch(target):
        raise _UnusableError(f'{place}: target "{target}"; expected "module:Class"')
    return Component(kind, name, target, origin)
