"""Checkpoints: exact, atomic under failure, and suspicious of everything they read."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hecate_core import files
from hecate_core.checkpoint import CheckpointFolder, changed_plugins, complete, load, read_meta, save
from hecate_core.errors import CheckpointError, InputError, PluginError
from hecate_core.registry import Registry

from .checkpoints import META, parts_of, refused, same


@pytest.fixture(autouse=True)
def _whole_disk_afterwards() -> Iterator[None]:
    yield
    files.disk = files.Disk()


# What is saved comes back.


def test_tensors_of_every_kind_and_meta_come_back_exactly(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float64).view(4, 6)
    tied = torch.randn(3)
    tensors = {
        "view": base[1:3],
        "transposed": base.t(),
        "strided": base[:, ::2],
        "tied.one": tied,
        "tied.two": tied,
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "integers": torch.tensor([-(2**63), 2**63 - 1]),
        "learned": torch.nn.Parameter(torch.randn(2, dtype=torch.float16)),
        "name with spaces/and.\u00e9": torch.zeros(1),
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
    }
    folder = save(tmp_path / "deep" / "step-1", {"model": tensors, "nothing": {}}, META)
    parts, meta = load(folder)
    assert meta == META
    assert parts["nothing"] == {}
    assert set(parts["model"]) == set(tensors)
    for name, tensor in tensors.items():
        back = parts["model"][name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert back.contiguous().view(-1).view(torch.uint8).tolist() == (
            tensor.detach().contiguous().view(-1).view(torch.uint8).tolist()
        )
    assert read_meta(folder) == META


def test_loaded_tensors_are_writable_and_their_own(tmp_path: Path) -> None:
    parts, _ = load(save(tmp_path / "step-1", parts_of(1), {}))
    parts["model"]["a.bias"].add_(1)
    assert same(load(tmp_path / "step-1")[0], parts_of(1))


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = (save(tmp_path / name, parts_of(1), META) for name in ("one", "two"))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    order: list[str] = []

    class Watching(files.Disk):
        def open(self, path: Path, flags: int) -> int:
            order.append(path.name)
            return super().open(path, flags)

    files.disk = Watching()
    save(tmp_path / "step-1", parts_of(1), META)
    assert order == ["model.safetensors", "optimizer.safetensors", "manifest.json"]


@pytest.mark.parametrize(
    ("parts", "meta", "message"),
    [
        ({"../model": {}}, {}, "part '../model'"),
        ({"Model": {}}, {}, "part 'Model'"),
        ({"model": {"a": torch.eye(2).to_sparse()}}, {}, "model.safetensors"),
        ({"model": {}}, {"loss": float("nan")}, "meta"),
        ({"model": {}}, {"cursor": object()}, "meta"),
    ],
)
def test_what_cannot_be_saved_is_one_line_and_leaves_nothing(
    parts: Any, meta: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path / "step-1", parts, meta)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_existing_checkpoint_is_not_overwritten_unasked(tmp_path: Path) -> None:
    save(tmp_path / "step-1", parts_of(1), {})
    with pytest.raises(CheckpointError, match="File exists"):
        save(tmp_path / "step-1", parts_of(2), {})
    assert same(load(tmp_path / "step-1")[0], parts_of(1))
    save(tmp_path / "step-1", parts_of(2), {}, replace=True)
    assert same(load(tmp_path / "step-1")[0], parts_of(2))


# The folder of a run.


def test_the_last_k_stay_in_the_order_of_steps(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=3)
    for step in (8, 9, 10, 11, 100):
        folder.save(step, parts_of(step), {"step": step})
    assert folder.steps() == [10, 11, 100]
    assert folder.load()[1] == {"step": 100}
    assert same(folder.load(11)[0], parts_of(11))
    assert sorted(os.listdir(folder.root)) == ["step-10", "step-100", "step-11"]


def test_a_step_saved_again_after_going_back_is_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (10, 20, 30, 15):
        folder.save(step, parts_of(step), {})
    assert folder.steps() == [15, 30]
    assert CheckpointFolder(tmp_path, keep=0).save(15, parts_of(3), {}).name == "step-15"
    assert same(folder.load(15)[0], parts_of(3))


def test_only_complete_checkpoints_are_listed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    good = folder.save(5, parts_of(5), {})
    (tmp_path / "step-6").mkdir()
    (tmp_path / "step-07").mkdir()
    (tmp_path / "step-07" / "manifest.json").write_text("{}")
    (tmp_path / "step-8").symlink_to(good)
    (tmp_path / "step-9").write_text("")
    (tmp_path / ".step-10.new-1-0123abcd").mkdir()
    assert folder.steps() == [5]
    with pytest.raises(CheckpointError, match="no checkpoint of step 6; complete are: 5"):
        folder.load(6)
    with pytest.raises(CheckpointError, match="No such file"):
        complete(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="no checkpoint; complete are: none"):
        CheckpointFolder(tmp_path / "fresh").load()
    with pytest.raises(InputError, match="keep"):
        CheckpointFolder(tmp_path, keep=-1)


def test_a_checkpoint_that_cannot_be_removed_does_not_stop_the_run(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, parts_of(1), {})

    class NoRemoval(files.Disk):
        def unlink(self, path: Path) -> None:
            raise OSError(errno.EIO, "")

    files.disk = NoRemoval()
    folder.save(2, parts_of(2), {})
    files.disk = files.Disk()
    assert folder.steps() == [2]
    assert os.listdir(CheckpointFolder(tmp_path).root) == ["step-2"]


# Plugins.


def test_plugins_of_the_meta_are_demanded(tmp_path: Path) -> None:
    records = [{"distribution": "acme-rules", "version": "1.0", "digest": "00"}]
    folder = save(tmp_path / "step-1", parts_of(1), {"plugins": records})
    with pytest.raises(PluginError, match=r"acme-rules 1\.0"):
        load(folder)
    assert read_meta(folder)["plugins"] == records


def test_a_plugin_whose_files_changed_is_named_and_does_not_stop(tmp_path: Path) -> None:
    plugins = Registry()
    name = next(plugin.origin.distribution for plugin in plugins.plugins() if plugin.components)
    meta = {"plugins": [{"distribution": name, "version": "0.0.0", "digest": "00"}]}
    folder = save(tmp_path / "step-1", parts_of(1), meta)
    assert load(folder, plugins)[1] == meta
    (line,) = changed_plugins(meta, plugins)
    assert name in line


@pytest.mark.parametrize("records", ["acme", {"a": 1}, [1], [{}], [{"distribution": 1, "version": "", "digest": ""}]])
def test_a_malformed_list_of_plugins_is_refused(records: Any, tmp_path: Path) -> None:
    save(tmp_path / "step-1", parts_of(1), {"plugins": records})
    refused(tmp_path / "step-1", "plugins")


def test_a_damaged_newest_checkpoint_names_the_whole_one_before(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2, 3):
        folder.save(step, parts_of(step), META)
    for step in (2, 3):
        damaged = next((tmp_path / f"step-{step}").glob("*.safetensors"))
        damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"step-1 is whole: remove step-3 to go on from it$"):
        folder.load()
    with pytest.raises(CheckpointError) as caught:
        folder.load(3)
    assert "whole" not in str(caught.value)
