"""What the README shows, works as shown."""

import re
from pathlib import Path

from hecate_core.blueprint import compose
from hecate_core.config import load_config

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples_run_in_order() -> None:
    assert len(blocks("python")) == 2
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile("import torch\n" + block, "README.md", "exec"), scope)
    assert scope["y"].shape == (2, 100, 256)  # type: ignore[attr-defined]


def test_toml_example_composes(tmp_path: Path) -> None:
    (block,) = blocks("toml")
    (tmp_path / "model.toml").write_text(block)
    model = compose(load_config(tmp_path / "model.toml"))
    assert len(model.blocks) == 2


def test_named_files_exist() -> None:
    for name in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (Path(__file__).parents[1] / name).is_file(), name
