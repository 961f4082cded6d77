"""The report in a headless Chromium without a network: every figure is painted, the dead level is red.

Asks for playwright and a Chromium: `bash tests/setup_chromium.sh .venv` fetches both from their registries, or
HECATE_CHROMIUM names a browser. Skipped, with the reason, where they are not there.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hecate_core.building import build
from hecate_core.cli.main import run

pytestmark = pytest.mark.soak

ARGUMENTS = [
    "--no-sandbox", "--single-process", "--no-zygote", "--in-process-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # fmt: skip
RED = (0xB3, 0x26, 0x1E)


def chromium() -> str:
    fetched = Path(sys.prefix) / "chromium" / "chromium"
    named = [os.environ.get("HECATE_CHROMIUM"), str(fetched), *map(shutil.which, ("chromium", "google-chrome"))]
    for path in named:
        if path and Path(path).is_file():
            return path
    pytest.skip("no Chromium; fetch one with: bash tests/setup_chromium.sh .venv")


def colours(png: bytes, box: dict[str, float]) -> set[tuple[int, int, int]]:
    """Every colour inside a box of a PNG."""
    import io

    image = pytest.importorskip("matplotlib.image").imread(io.BytesIO(png))
    x, y = int(box["x"]), int(box["y"])
    part = image[y : y + int(box["height"]), x : x + int(box["width"]), :3]
    return {tuple(round(float(c) * 255) for c in colour) for row in part[::2] for colour in row[::2]}  # type: ignore[misc]


def test_every_figure_is_painted_and_a_dead_level_is_red(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright: bash tests/setup_chromium.sh .venv")
    browser_path = chromium()
    levels: list[dict[str, Any]] = [{}, {"update_period": 2}, {"gates": {"write": {"high": 1e-7, "init": 1e-8}}}]
    (tmp_path / "text.txt").write_text("\n\n".join(f"{n} and its square {n * n}, {'xy' * (n % 9)}" for n in range(600)))
    table = {
        "data": {"path": str(tmp_path / "text.txt"), "batch": 2, "length": 16},
        "model": {
            "width": 16, "depth": 1, "memory": {"chunk": 8, "levels": levels}, "channel": "cms",
            "cms": {"grain": 16, "levels": [{"rate": 0.1}, {"update_period": 2}]},
        },
        "run": {"steps": 6, "eval_interval": 0, "checkpoint_interval": 0},
    }  # fmt: skip
    build(table, tmp_path / "run")
    page_path = tmp_path / "report.html"
    assert run(["report", str(tmp_path / "run"), "-o", str(page_path), "--tokens", "24"]) == 0
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_path.as_uri())
        png = page.screenshot(full_page=True)
        figures = page.locator("svg[role=img]")
        boxes = {figures.nth(i).get_attribute("id"): figures.nth(i).bounding_box() for i in range(figures.count())}
        summary = page.locator("#summary")
        colour = summary.evaluate("one => getComputedStyle(one).color")
        text = summary.inner_text()
        browser.close()
    assert asked == [page_path.as_uri()]  # nothing but the file itself
    memory = {"rates", "norms", "gates", "buffers", "surprise"}
    assert set(boxes) == {"loss", "throughput", "channel", "learning"} | memory
    for name, box in boxes.items():
        seen = colours(png, box)
        assert any(max(one) - min(one) > 60 for one in seen), f"{name}: nothing coloured is painted"
    assert RED in colours(png, boxes["norms"])
    assert text == "Dead levels: run: block 0, level 2."
    assert colour == "rgb(179, 38, 30)"
