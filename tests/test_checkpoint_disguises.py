"""Pickles in disguise never run, and headers that ask for much memory get none."""

import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hecate_core
from hecate_core.checkpoint import load, save
from hecate_core.errors import CheckpointError

TENSORS = {"a": torch.zeros(4)}


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def pickled(trap: Trap, protocol: int) -> bytes:
    return pickle.dumps(trap, protocol=protocol)


def torch_zip(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": trap}, buffer)
    return buffer.getvalue()


def torch_legacy(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": trap}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(trap, 2))
    return buffer.getvalue()


def headed(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def npy(trap: Trap) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled(trap, 2)


def pretended(trap: Trap) -> bytes:
    """A pickle whose first eight bytes read as a small header length."""
    return struct.pack("<Q", 16) + pickled(trap, 2)


FILES: dict[str, Callable[[Trap], bytes]] = {
    "protocol 0": lambda trap: pickled(trap, 0),
    "protocol 1": lambda trap: pickled(trap, 1),
    "protocol 2": lambda trap: pickled(trap, 2),
    "protocol 3": lambda trap: pickled(trap, 3),
    "protocol 4": lambda trap: pickled(trap, 4),
    "protocol 5": lambda trap: pickled(trap, 5),
    "torch zip": torch_zip,
    "torch legacy": torch_legacy,
    "zip of a pickle": zipped,
    "gzip of a pickle": lambda trap: gzip.compress(pickled(trap, 4)),
    "numpy object": npy,
    "length, then pickle": pretended,
    "empty header, then pickle": lambda trap: headed(b"{}", pickled(trap, 4)),
    "tensor of pickle type": lambda trap: headed(
        json.dumps({"a": {"dtype": "pickle", "shape": [9], "data_offsets": [0, 9]}}).encode(), pickled(trap, 0)
    ),
    "pickle as header": lambda trap: headed(pickled(trap, 0), b""),
    "brace, then pickle": lambda trap: headed(b"{" + pickled(trap, 0), b""),
}


def forge(folder: Path, name: str, data: bytes) -> None:
    """Put `data` into a checkpoint and make every digest fit."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    del manifest["digest"]
    manifest["digest"] = hashlib.sha256((json.dumps(manifest, indent=1) + "\n").encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def refuse(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("disguise", sorted(FILES))
@pytest.mark.parametrize("forged", [False, True])
def test_a_pickle_in_place_of_tensors_is_refused_and_never_runs(disguise: str, forged: bool, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    folder = save(tmp_path / "step-1", {"model": TENSORS}, {})
    data = FILES[disguise](trap)
    if forged:
        forge(folder, "model.safetensors", data)
    else:
        (folder / "model.safetensors").write_bytes(data)
    refuse(folder)
    assert not trap.place.exists()


@pytest.mark.parametrize("name", ["manifest.json", "model.pt", "model.safetensors.pkl", "__init__.py"])
def test_a_pickle_as_manifest_or_beside_it_is_refused_and_never_runs(name: str, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    folder = save(tmp_path / "step-1", {"model": TENSORS}, {})
    (folder / name).write_bytes(pickled(trap, 2))
    refuse(folder)
    assert not trap.place.exists()


def test_there_are_twenty_disguises_and_the_trap_works(tmp_path: Path) -> None:
    assert len(FILES) + 4 >= 20
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickled(trap, 2))
    assert trap.place.exists()


def test_core_never_unpickles() -> None:
    for path in Path(hecate_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names}
                names.add(str(getattr(node, "module", "")).split(".")[0])
                assert not names & {"pickle", "shelve", "marshal", "joblib", "dill", "cloudpickle"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), path


def sparse(path: Path, start: bytes, size: int) -> None:
    """A file that claims `size` bytes and holds `start`; the rest takes no disk."""
    path.write_bytes(start)
    os.truncate(path, size)


def entry(shape: list[int], start: int = 0, end: int = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def header(content: object, body: bytes = b"") -> bytes:
    return headed(json.dumps(content).encode(), body)


def huge_length(folder: Path) -> None:
    forge(folder, "model.safetensors", struct.pack("<Q", 2**63 - 1) + b"{" * 100)


def length_beyond_file(folder: Path) -> None:
    forge(folder, "model.safetensors", struct.pack("<Q", 2**34) + b"{" * 100)


def sparse_header(folder: Path) -> None:
    size = 2**28  # a quarter of a gigabyte, all of it said to be header
    forge(folder, "model.safetensors", struct.pack("<Q", size - 8) + b"{" + bytes(size - 9))
    sparse(folder / "model.safetensors", struct.pack("<Q", size - 8) + b"{", size)


def sparse_manifest(folder: Path) -> None:
    sparse(folder / "manifest.json", b"{", 2**30)


def nested_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"[" * 1_000_000)


def nested_header(folder: Path) -> None:
    forge(folder, "model.safetensors", headed(b'{"a":' + b"[" * 1_000_000, b""))


def overflowing_shape(folder: Path) -> None:
    forge(folder, "model.safetensors", header({"a": entry([2**32, 2**32, 2**32], 0, 4)}, b"1234"))


def promised_terabyte(folder: Path) -> None:
    forge(folder, "model.safetensors", header({"a": entry([2**38], 0, 2**40)}, b"1234"))


def everything_at_once(folder: Path) -> None:
    shared = {f"t{i}": entry([1 << 18], 0, 1 << 20) for i in range(1000)}  # a gigabyte out of a megabyte
    forge(folder, "model.safetensors", header(shared, bytes(1 << 20)))


def long_number(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"version": ' + b"9" * 1_000_000 + b"}")


BOMBS = [
    huge_length,
    length_beyond_file,
    sparse_header,
    sparse_manifest,
    nested_manifest,
    nested_header,
    overflowing_shape,
    promised_terabyte,
    everything_at_once,
    long_number,
]


JUDGE = """
import os, resource, sys
from pathlib import Path
from hecate_core.checkpoint import load
from hecate_core.errors import CheckpointError

for line in sys.stdin:
    child = os.fork()
    if child == 0:  # in a process that may ask for 64 MiB more than it has, and no more
        status = 3
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
            load(Path(line.rstrip())) if line.strip() else bytearray(128 << 20)
        except CheckpointError as error:
            status = 0 if "\\n" not in str(error) else 4
        except MemoryError:
            status = 5
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Callable[[str], int]]:
    """How loading a folder under the limit ends, in a process that has no memory of other tests to use up first."""
    with subprocess.Popen([sys.executable, "-c", JUDGE], stdin=-1, stdout=-1, text=True) as process:
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None

        def verdict(folder: str) -> int:
            print(folder, file=asked, flush=True)
            return int(answers.readline())

        yield verdict
        asked.close()


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_bomb_is_refused_with_flat_memory(
    bomb: Callable[[Path], None], judge: Callable[[str], int], tmp_path: Path
) -> None:
    folder = save(tmp_path / "step-1", {"model": TENSORS}, {})
    bomb(folder)
    assert judge(str(folder)) == 0


def test_the_memory_limit_of_the_test_above_would_stop_a_bomb(judge: Callable[[str], int]) -> None:
    assert judge("") == 5
