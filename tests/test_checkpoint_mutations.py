"""Checkpoints that were changed, forged or torn: refused in one line, whatever is in them."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from hecate_core.checkpoint import load, save
from hecate_core.errors import CheckpointError

from .checkpoints import META, parts_of, refused, same


def mutated(content: bytes, chooser: random.Random) -> bytes:
    """A different content: bits flipped, bytes set, cut, dropped, doubled, swapped or added."""
    at, size = chooser.randrange(len(content)), chooser.randint(1, 64)
    block = content[at : at + size]
    choices = [
        content[:at] + bytes([content[at] ^ (1 << chooser.randrange(8))]) + content[at + 1 :],
        content[:at] + chooser.randbytes(1) + content[at + 1 :],
        content[:at],
        content[:at] + content[at + size :],
        content[: at + size] + block + content[at + size :],
        content[:at] + bytes(len(block)) + content[at + size :],
        content[:at] + block[::-1] + content[at + size :],
        content[:at] + chooser.randbytes(size) + content[at:],
        content + chooser.randbytes(size),
        chooser.randbytes(size) + content,
        content.replace(b" ", b"  ", 1) if b" " in content else b"",
        b"",
    ]
    return chooser.choice([choice for choice in choices if choice != content])


def test_a_thousand_mutated_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", parts_of(1), META)
    original = {path.name: path.read_bytes() for path in folder.iterdir()}
    chooser = random.Random(5)
    for number in range(1000):
        name = chooser.choice(sorted(original))
        changed = mutated(original[name], chooser)
        (folder / name).write_bytes(changed)
        assert refused(folder), number
        (folder / name).write_bytes(original[name])
    assert same(load(folder)[0], parts_of(1))


def forge(folder: Path, content: dict[str, bytes], meta: object = None) -> None:
    """A checkpoint of a forger who computes every digest anew."""
    for name, data in content.items():
        (folder / name).write_bytes(data)
    listed = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in content.items()}
    manifest: dict[str, Any] = {"format": "hecate-checkpoint", "version": 1, "meta": meta or {}, "files": listed}
    forge_manifest(folder, manifest)


def forge_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    manifest = {key: value for key, value in manifest.items() if key != "digest"}
    manifest["digest"] = hashlib.sha256((json.dumps(manifest, indent=1) + "\n").encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def test_forged_digests_load_or_are_refused_in_one_line_and_never_anything_else(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", parts_of(1), META)
    original = (folder / "model.safetensors").read_bytes()
    (folder / "optimizer.safetensors").unlink()
    header = 8 + int.from_bytes(original[:8], "little")
    chooser, refusals = random.Random(6), 0
    for _ in range(500):
        head = mutated(original[:header], chooser)
        forge(folder, {"model.safetensors": head + original[header:]})
        try:
            load(folder)
        except CheckpointError:
            refused(folder)
            refusals += 1
    assert refusals > 400


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"version": True},
        {"meta": []},
        {"files": []},
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}},
        {"files": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}},
        {"files": {"model.pt": {"bytes": 1, "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": 10**30, "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": "9", "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": 9, "sha256": None}}},
        {"files": {"model.safetensors": None}},
        {"files": {}},
        {"files": {f"a{i}.safetensors": {"bytes": 1, "sha256": "0" * 64} for i in range(2000)}},
    ],
)
def test_a_forged_manifest_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", {"model": parts_of(1)["model"]}, META)
    content = json.loads((folder / "manifest.json").read_text())
    forge_manifest(folder, {**content, **change})
    refused(folder)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", parts_of(1), META)
    (folder / "notes.txt").write_text("x")
    assert "notes.txt is no part" in refused(folder)
    (folder / "notes.txt").unlink()
    (folder / "optimizer.safetensors").unlink()
    assert "optimizer.safetensors is missing" in refused(folder)
    os.mkfifo(folder / "optimizer.safetensors")
    assert "no regular file" in refused(folder)
    (folder / "manifest.json").unlink()
    assert "No such file" in refused(folder)
    refused(tmp_path / "nowhere", "No such file")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", parts_of(1), META)
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    refused(folder, r"model\.safetensors")


def test_a_source_that_shrinks_between_manifest_and_reading_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-1", parts_of(1), META)
    os.truncate(folder / "model.safetensors", 30)
    refused(folder, "30 bytes; the manifest says")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "Not a directory")
