"""Findings kept between runs, keyed by what decides them: content, path, settings, rules and their code.

One JSON file per key of settings and rules in `.hecate_lint_cache/`. A damaged cache is an empty cache.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

FOLDER = ".hecate_lint_cache"
KEPT = 20_000  # entries; beyond it only those of the last run stay
_IGNORE = "*\n"


def fingerprint(parts: Iterable[str]) -> str:
    """A digest of the linter's own code, the interpreter and whatever else decides the findings."""
    digest = hashlib.blake2b(digest_size=12)
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (here, os.path.join(here, "rules"), os.path.join(here, "conformance")):
        if os.path.isdir(folder):
            for entry in sorted(os.scandir(folder), key=lambda e: e.name):
                if entry.name.endswith(".py"):
                    stat = entry.stat()
                    digest.update(f"{entry.name}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    for part in (sys.version, *parts):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def key(path: str, data: bytes) -> str:
    """The key of one file: its reported path and its bytes."""
    digest = hashlib.blake2b(data, digest_size=16)
    digest.update(path.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class Cache:
    """The kept results of one fingerprint; `enabled=False` reads and writes nothing."""

    def __init__(self, root: str, fingerprint: str, enabled: bool = True):
        self._path = os.path.join(root, FOLDER, f"{fingerprint}.json")
        self._enabled = enabled
        self._old: dict[str, Any] = self._read() if enabled else {}
        self._new: dict[str, Any] = {}
        self.hits = 0

    def get(self, key: str) -> dict[str, Any] | None:
        """The kept result of a file, None when there is none."""
        found = self._old.get(key)
        if not isinstance(found, dict) or not isinstance(found.get("findings"), list):
            return None
        self.hits += 1
        self._new[key] = found
        return found

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result."""
        self._new[key] = result

    def save(self) -> None:
        """Write what changed; a folder that cannot be written costs only the speed of the next run."""
        if not self._enabled or self._new.keys() <= self._old.keys():
            return
        import tempfile  # costs more than reading a cache does

        merged = {**self._old, **self._new} if len(self._old) + len(self._new) <= KEPT else self._new
        folder = os.path.dirname(self._path)
        try:
            os.makedirs(folder, exist_ok=True)
            ignore = os.path.join(folder, ".gitignore")
            if not os.path.exists(ignore):
                with open(ignore, "w", encoding="utf-8") as stream:
                    stream.write(_IGNORE)
            self._forget(folder)
            descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(merged, stream, separators=(",", ":"))
            os.replace(temporary, self._path)
        except OSError:
            return  # a read-only folder: the next run is slower, nothing else

    def _forget(self, folder: str) -> None:
        # Caches of earlier rules and settings: keep the three newest.
        files = [entry for entry in os.scandir(folder) if entry.name.endswith((".json", ".tmp"))]
        for entry in sorted(files, key=lambda e: e.stat().st_mtime, reverse=True)[3:]:
            os.unlink(entry.path)

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as stream:
                found = json.load(stream)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
