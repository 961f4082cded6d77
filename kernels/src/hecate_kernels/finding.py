"""What the words of a command line mean: pairs of the registry, of a `.py` or a folder, and sources without a pair."""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from hecate_core.api import HecateError, InputError, nearest, registry
from hecate_kernels.failure import BrokenPairError
from hecate_kernels.flatten import digest
from hecate_kernels.pair import CheckedPair, KernelPair
from hecate_kernels.strangers import calling

_PASSED_OVER = re.compile(r"\..*|__pycache__|node_modules")
_NO_PAIRS = re.compile(r"test_.*|.*_test\.py|conftest\.py|setup\.py|__main__\.py")
_MENTIONS = re.compile(r"\bhecate_kernels\b|\bKernelPair\b")
_A_PAIR = "a class with `kernels`, `trials` and `specialisations`, made without arguments"


@attrs.frozen
class Subject:
    """What is to be checked: a pair, a source without one, or why what should be one is none."""

    name: str
    pair: CheckedPair | None = None
    source: Path | None = None
    broken: HecateError | None = None


def subjects(words: Sequence[str]) -> list[Subject]:
    """Everything that is meant, in order and once; InputError for a word that means nothing."""
    found: dict[tuple[object, ...], Subject] = {}
    for word in words or [""]:
        for one in _meant(word):
            source, home = (one.pair.kernels.source, _home(one.pair)) if one.pair is not None else (one.source, None)
            found.setdefault((one.name, source, home, str(one.broken)), one)
    return list(found.values())


def find_pairs(words: Sequence[str]) -> dict[str, CheckedPair]:
    """The pairs among them, by name; raises the error of the first that is broken."""
    found = subjects(words)
    for one in found:
        if one.broken is not None:
            raise one.broken
    return {one.name: one.pair for one in found if one.pair is not None}


def _meant(word: str) -> Iterator[Subject]:
    path = Path(word)
    if path.suffix in (".cu", ".py"):
        if not (path.is_file() if path.suffix == ".py" else path.exists()):
            kind = "CUDA source" if path.suffix == ".cu" else "a Python file with pair classes"
            raise InputError(f"{path}: no such file; expected {kind}")
        yield from [Subject(path.name, source=path)] if path.suffix == ".cu" else _of_file(path)
    elif path.is_dir() and word and not _is_installed(word):
        yield from _of_folder(path)
    elif os.sep in word:
        raise InputError(f"{path}: no such folder; expected a pair, a distribution, a folder, a .py or a .cu")
    else:
        yield from _of_registry(word)


def _is_installed(word: str) -> bool:
    known = registry()
    components = [known.find("pair", name) for name in known.names("pair")]
    return any(word in (one.name, one.address) or one.origin.answers_to(word) for one in components)


def _of_registry(wanted: str) -> Iterator[Subject]:
    """Pairs by name, by distribution, or by the op under which they are listed.

    The backends of one op mostly share source and checks, so an op is listed once, and again by the name of every pair
    with another source.
    """
    known = registry()
    first: dict[str, Path] = {}
    met, by_name = False, not wanted or _is_installed(wanted)
    for name in known.names("pair"):
        component = known.find("pair", name)
        if by_name and wanted not in ("", name, component.address) and not component.origin.answers_to(wanted):
            continue
        made = _made(name, functools.partial(known.create, "pair", component.address), component.target)
        if made is None or not (by_name or (made.pair is not None and made.pair.kernels.op == wanted)):
            continue
        met = True
        if made.pair is None:
            yield made
            continue
        op, source = made.pair.kernels.op, made.pair.kernels.source
        if op not in first:
            first[op] = source
            yield attrs.evolve(made, name=op)
        elif first[op] != source:
            yield made
    if by_name and wanted and not met:
        raise InputError(f'"{wanted}" brings no kernels to check, such as plain torch; expected a pair with trials()')
    if not met:
        raise InputError(f'kernel pair "{wanted}" is not installed{nearest(wanted, known.names("pair"))}')


def _made(name: str, make: Callable[[], Any], about: Any) -> Subject | None:
    """A pair, or why it cannot be made; None for what brings no cases, such as plain torch. `about` gives the place."""
    try:
        with calling(f"{name} cannot be made: it", _A_PAIR, about):
            pair = make()
            if not (hasattr(pair, "trials") and hasattr(pair, "kernels")):
                return None
            if not isinstance(pair.kernels, KernelPair):
                raise TypeError(f"kernels is {type(pair.kernels).__name__}")
            return Subject(name, pair)
    except HecateError as error:
        return Subject(name, broken=BrokenPairError(str(error)))


def _of_file(path: Path, alone: bool = True) -> Iterator[Subject]:
    """The pairs that a Python file defines; `alone`: it was asked for, so that there has to be one."""
    try:
        with calling(f"importing {path.name}", "a Python file with pair classes", path):
            module = _imported(path)
            members = [one for one in vars(module).values() if _is_pair(one, module)]
    except HecateError as error:
        yield Subject(path.name, broken=BrokenPairError(str(error)))
        return
    found = [one for one in (_made(member.__name__, member, member) for member in members) if one is not None]
    if alone and not found:
        raise InputError(f"{path}: no pair in it; a pair is {_A_PAIR}")
    yield from found


def _is_pair(member: Any, module: ModuleType) -> bool:
    """A class of the module's own that brings cases; bases, which want arguments, are none."""
    if not isinstance(member, type) or member.__module__ != module.__name__ or not hasattr(member, "trials"):
        return False
    if inspect.isabstract(member) or getattr(member, "_is_protocol", False):
        return False
    try:
        inspect.signature(member).bind()
    except TypeError:
        return False
    return True


def _imported(path: Path) -> ModuleType:
    """The module of a file, under its dotted name where it lies in a package; files beside it can be imported."""
    folder, words = path.resolve().parent, [path.stem]
    while (folder / "__init__.py").is_file():
        words.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    if len(words) > 1:
        module = importlib.import_module(".".join(words))
        if Path(module.__file__ or "").resolve() != path.resolve():
            raise ImportError(f"{'.'.join(words)} is another file: {module.__file__}")
        return module
    name = f"hecate_checked_{path.stem}_{digest(str(path.resolve()))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _of_folder(folder: Path) -> Iterator[Subject]:
    """Installed pairs that lie in it, those of its other Python files, and the sources that none of them has."""
    inside = folder.resolve()
    found, files, sources = [], set[Path](), set[Path]()
    for one in _of_registry(""):
        home, source = (_home(one.pair), one.pair.kernels.source.resolve()) if one.pair is not None else (None, None)
        if one.pair is not None and (_lies_in(source, inside) or _lies_in(home, inside)):
            found.append(one)
            files.add(home or inside)
    paths = [Path(where) / name for where, _, names in _walked(folder) for name in sorted(names)]
    for path in paths:
        if path.suffix == ".py" and path.resolve() not in files and _may_hold_pairs(path):
            found += _of_file(path, alone=False)
    sources |= {one.pair.kernels.source.resolve() for one in found if one.pair is not None}
    found += [
        Subject(str(path.relative_to(folder)), source=path)
        for path in paths
        if path.suffix == ".cu" and path.resolve() not in sources
    ]
    if not found:
        raise InputError(f"{folder}: no pair and no .cu in it; a pair is {_A_PAIR}")
    yield from found


def _walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for where, below, names in os.walk(folder):
        below[:] = sorted(one for one in below if not _PASSED_OVER.fullmatch(one))
        yield where, below, names


def _may_hold_pairs(path: Path) -> bool:
    """Whether a Python file is worth importing: it speaks of kernels and is no test."""
    if _NO_PAIRS.fullmatch(path.name) or not path.is_file():
        return False
    return _MENTIONS.search(path.read_text(errors="replace")) is not None


def _home(pair: CheckedPair) -> Path | None:
    try:
        return Path(inspect.getfile(type(pair))).resolve()
    except (OSError, TypeError):
        return None


def _lies_in(path: Path | None, folder: Path) -> bool:
    return path is not None and folder in path.parents
