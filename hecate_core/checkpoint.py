"""Checkpoints: a folder of safetensors files and one JSON manifest with a digest of everything.

The folder appears whole or not at all, the manifest is its last file, and nothing in it is ever
unpickled. What is read is untrusted: sizes are checked before memory is asked for, digests before
anything is parsed, and every refusal is one line with exit status 4.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from hecate_core import files
from hecate_core.errors import CheckpointError, InputError
from hecate_core.limits import CHECKPOINT_FILES, HEADER_BYTES, MANIFEST_BYTES, MIB
from hecate_core.registry import Registry, registry

FORMAT, VERSION = "hecate-checkpoint", 1
MANIFEST = "manifest.json"
_FILE = re.compile(r"([a-z][a-z0-9_]{0,63})\.safetensors")
_STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLUGIN_KEYS = {"distribution", "version", "digest"}


def save(
    folder: Path | str, parts: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any], *, replace: bool = False
) -> Path:
    """Write a checkpoint to `folder`; when this returns its path, it is on the disk.

    `parts` are tensors by part ("model", "optimizer", ...) and name, on any device; tied tensors are
    stored under each name. `meta` is plain JSON; under "plugins" it lists what `load` demands, as
    `UsedPlugin.record` gives it. Raises CheckpointError, and `folder` is as before, when something
    does not fit, exists already without `replace`, or the disk refuses.
    """
    folder = Path(folder)

    def fill(made: Path) -> None:
        listed: dict[str, dict[str, int | str]] = {}
        for part, tensors in parts.items():
            name = f"{part}.safetensors"
            content = _serialized(folder, name, tensors)
            files.add_file(made / name, content)
            listed[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        files.add_file(made / MANIFEST, _manifest_bytes(meta, listed))

    try:
        files.make_folder(folder.parent)
        return files.publish(folder, fill, replace=replace)
    except files.StorageError as error:
        reason = os.strerror(error.errno or 0)
        raise CheckpointError(f"{folder}: not saved: {reason}; the checkpoints before it are intact") from error
    except InputError as error:
        raise CheckpointError(f"{folder}: not saved: meta: {error}") from error


def load(folder: Path | str, plugins: Registry | None = None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The parts and the meta of a checkpoint, exactly as they were saved; tensors lie on the CPU.

    Raises CheckpointError, one line, for anything that is not byte for byte a checkpoint, and
    PluginError where a plugin it was made with is not in `plugins` (default: all that is installed).
    """
    folder = Path(folder)
    listed, meta = _manifest(folder)
    changed_plugins(meta, plugins, place=folder)
    found = set(_names(folder))
    if found != {MANIFEST, *listed}:
        odd = sorted(found ^ {MANIFEST, *listed})[0]
        raise CheckpointError(f"{folder}: {odd} is {'missing' if odd in listed else 'no part of the checkpoint'}")
    return {name.removesuffix(".safetensors"): _tensors(folder / name, entry) for name, entry in listed.items()}, meta


def load_part(folder: Path | str, part: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of one part and the SHA-256 of its file; nothing that the checkpoint was made with is demanded.

    Raises CheckpointError as `load` does, and where there is no such part.
    """
    listed, name = _manifest(Path(folder))[0], f"{part}.safetensors"
    if name not in listed:
        raise CheckpointError(f"{folder}: no {name}; expected a checkpoint of a run")
    return _tensors(Path(folder) / name, listed[name]), listed[name]["sha256"]


def read_meta(folder: Path | str) -> dict[str, Any]:
    """The meta of a checkpoint, without reading a tensor; raises CheckpointError as `load` does."""
    return _manifest(Path(folder))[1]


def changed_plugins(meta: Mapping[str, Any], plugins: Registry | None = None, place: object = "meta") -> list[str]:
    """One line for every plugin of `meta` whose version or files differ from what is installed.

    Raises PluginError for one that is missing or broken, CheckpointError for a malformed list.
    """
    records = meta.get("plugins", [])
    fits = isinstance(records, list) and all(
        isinstance(one, dict) and set(one) == _PLUGIN_KEYS and all(isinstance(text, str) for text in one.values())
        for one in records
    )
    if not fits:
        raise CheckpointError(f"{place}: plugins; expected a list of {', '.join(sorted(_PLUGIN_KEYS))}")
    return (plugins or registry()).demand(records) if records else []


def complete(root: Path | str) -> dict[int, Path]:
    """The checkpoints in `root` by step, ascending: folders `step-N` that hold a manifest; changes nothing."""
    root = Path(root)
    steps = {int(match[1]): root / name for name in _names(root) if (match := _STEP.fullmatch(name))}
    return {
        step: steps[step]
        for step in sorted(steps)
        if not steps[step].is_symlink() and (steps[step] / MANIFEST).is_file()
    }


class CheckpointFolder:
    """The checkpoints of one run, `root/step-N`, of which the last `keep` stay (0: all of them).

    Opening makes `root` and removes what killed processes left there, so only the run's one writer
    may open it.
    """

    def __init__(self, root: Path | str, keep: int = 3) -> None:
        if isinstance(keep, bool) or keep < 0:
            raise InputError(f"checkpoints.keep = {keep!r}; expected an integer >= 0")
        self.root, self.keep = files.make_folder(root), keep
        files.clean(self.root)

    def steps(self) -> list[int]:
        """The steps that can be loaded, ascending."""
        return list(complete(self.root))

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> Path:
        """Save step `step`, replacing one of the same step, then remove the oldest beyond `keep`.

        Raises CheckpointError as `save`. An old one that the disk refuses to remove is left for the
        next time: the new one is saved all the same.
        """
        path = save(self.root / f"step-{step}", parts, meta, replace=True)
        if self.keep:
            others = [old for other, old in complete(self.root).items() if other != step]
            for old in others[: max(0, len(others) + 1 - self.keep)]:
                self._remove(old)
        return path

    def _remove(self, path: Path) -> bool:
        try:
            files.remove(path)
        except files.StorageError:
            return False
        return True

    def load(
        self, step: int | None = None, plugins: Registry | None = None
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The checkpoint of `step`, or the last one; CheckpointError when there is none."""
        found = complete(self.root)
        chosen = max(found, default=None) if step is None else step
        if chosen is None or chosen not in found:
            have = ", ".join(map(str, found)) or "none"
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise CheckpointError(f"{self.root}: {wanted}; complete are: {have}")
        try:
            return load(found[chosen], plugins)
        except CheckpointError as error:
            whole = None if step is not None else self._whole_before(found, chosen)
            if whole is None:
                raise
            raise CheckpointError(
                f"{error}; {whole.name} is whole: remove {found[chosen].name} to go on from it"
            ) from None

    def _whole_before(self, found: Mapping[int, Path], step: int) -> Path | None:
        """The newest checkpoint before `step` that can be read."""
        for earlier in sorted((one for one in found if one < step), reverse=True):
            with contextlib.suppress(CheckpointError):
                load(found[earlier])
                return found[earlier]
        return None


def _serialized(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of one part, which can be read again."""
    if not _FILE.fullmatch(name):
        raise CheckpointError(f"{folder}: part {name.removesuffix('.safetensors')!r}; expected a name like model")
    try:
        content = tensor_bytes(_unshared(tensors))
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: not saved: {name}: {_line(error)}") from error
    header = int.from_bytes(content[:8], "little")
    if header > HEADER_BYTES:
        raise CheckpointError(
            f"{folder}: not saved: {name}: names and shapes take {header} bytes; expected at most {HEADER_BYTES}"
        )
    return content


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU, each with a storage of its own, because the format knows no sharing."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[key] = value
    return plain


def _manifest_bytes(meta: Mapping[str, Any], listed: Mapping[str, Mapping[str, int | str]]) -> bytes:
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "meta": dict(meta), "files": dict(listed)}
    content["digest"] = _digest(content)
    raw = _canonical(content)
    if len(raw) > MANIFEST_BYTES:
        raise InputError(f"{len(raw)} bytes; expected at most {MANIFEST_BYTES}")
    return raw


def _canonical(content: Mapping[str, Any]) -> bytes:
    """The one way a manifest may be written, so that every changed byte shows."""
    return (files.to_json(content, indent=1) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({key: value for key, value in content.items() if key != "digest"})).hexdigest()


def _manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """`files` and `meta` of a manifest that is exactly as it was written."""
    place = folder / MANIFEST
    with _opened(place, MANIFEST_BYTES) as (file, size):
        raw = file.read(size + 1)
    try:
        content = json.loads(raw)
        unchanged = isinstance(content, dict) and _canonical(content) == raw
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: no manifest ({_line(error)}); expected the JSON of a checkpoint") from None
    if not unchanged or content.get("format") != FORMAT:
        raise CheckpointError(f"{place}: no manifest of a checkpoint, or changed since it was written")
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise CheckpointError(f"{place}: version {content.get('version')!r}; this Hecate reads version {VERSION}")
    if content.get("digest") != _digest(content):
        raise CheckpointError(f"{place}: changed since it was written (its digest does not fit)")
    listed, meta = content.get("files"), content.get("meta")
    if not isinstance(listed, dict) or not isinstance(meta, dict) or len(listed) > CHECKPOINT_FILES:
        raise CheckpointError(f"{place}: files and meta; expected two mappings")
    for name, entry in listed.items():
        _check_entry(place, name, entry)
    return listed, meta


def _check_entry(place: Path, name: str, entry: object) -> None:
    fits = (
        _FILE.fullmatch(name)
        and isinstance(entry, dict)
        and set(entry) == {"bytes", "sha256"}
        and type(entry["bytes"]) is int
        and isinstance(entry["sha256"], str)
        and _SHA256.fullmatch(entry["sha256"])
    )
    if not fits:
        raise CheckpointError(f"{place}: files[{name!r:.80}]; expected a safetensors file with bytes and sha256")


def _tensors(path: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one file, after its size, its header's length and its digest have been checked."""
    with _opened(path, entry["bytes"]) as (file, size):
        if size != entry["bytes"]:
            raise CheckpointError(f"{path}: {size} bytes; the manifest says {entry['bytes']}")
        start = file.read(9)
        header = int.from_bytes(start[:8], "little")
        if len(start) < 9 or header > min(HEADER_BYTES, size - 8) or start[8:] != b"{":
            raise CheckpointError(f"{path}: no safetensors file (its header is {header} of {size} bytes)")
        file.seek(0)
        total = hashlib.sha256()
        while block := file.read(MIB):
            total.update(block)
        if total.hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{path}: changed since it was written (its digest does not fit)")
        file.seek(0)
        content = file.read(size)
    try:
        return parse_tensors(content)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, AssertionError) as error:
        raise CheckpointError(f"{path}: no safetensors file ({_line(error)})") from None


@contextmanager
def _opened(path: Path, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, no link, of at most `limit` bytes; opened without waiting for a pipe's other end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise CheckpointError(f"{path}: no regular file")
            if facts.st_size > limit:
                raise CheckpointError(f"{path}: {facts.st_size} bytes; expected at most {limit}")
            with open(handle, "rb", closefd=False) as file:
                yield file, facts.st_size
        finally:
            os.close(handle)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CheckpointError(f"{path}: {reason}; expected a file of a checkpoint") from None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder}: {os.strerror(error.errno or 0)}; expected a folder") from None


def _line(error: BaseException) -> str:
    """The first line of a message of somebody else's, kept short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
