"""`compare` calls a winner under equal conditions only; every confounder is refused by its name, alone."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hecate_core.cli.main import run
from hecate_core.comparing import compare, side, weighed
from hecate_core.conditions import CONDITIONS
from hecate_core.config import config_json, make_config
from hecate_core.errors import CheckpointError, InputError
from hecate_core.student import two_sided

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None]


def fake(path: Path, rule: str, seed: int, bits: float, change: Change | None = None) -> Path:
    """A finished run folder; `change` sees config table, manifest and final record before they are written."""
    table: dict[str, Any] = {"seed": seed, "model": {"memory": {"rule": rule}}, "run": {}, "data": {}, "schedule": {}}
    table["optimizer"] = {"name": "adamw"}
    manifest: dict[str, Any] = {
        "schema": "hecate.run/1", "data": {"name": "text", "sha256": "0" * 64}, "dtype": "float32", "autocast": None,
        "device": "cpu", "threads": 1, "versions": {"torch": "2.13.0"}, "commit": "abc", "dirty": False,
        "machine": {"processor": "one", "cores": 2}, "numerics": {"float32_matmul": "highest"}, "resumed": [],
        "backends": [{"op": "affine", "asked": "auto", "runs": "reference", "reason": ""}],
        "plugins": [
            {"distribution": "hecate-core", "version": "0.1.0", "digest": "d"},
            {"distribution": f"hecate-{rule}", "version": "0.1.0", "digest": rule},
        ],
    }  # fmt: skip
    final: dict[str, Any] = {"final": True, "bits_per_byte": bits}
    if change is not None:
        change(table, manifest, final)
    path.mkdir(parents=True)
    config = make_config(table)
    (path / "config.json").write_text(config_json(config))
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "metrics.jsonl").write_text(json.dumps({"step": config.run.steps, **final}) + "\n")
    return path


def sides(tmp_path: Path, change: Change | None = None, bits: tuple[float, ...] = (2.0, 2.1, 1.9)) -> tuple[Path, Path]:
    for seed, value in enumerate(bits):
        fake(tmp_path / "a" / f"seed-{seed}", "delta", seed, 2.5 + 0.05 * seed)
        fake(tmp_path / "b" / f"seed-{seed}", "titans", seed, value, change)
    return tmp_path / "a", tmp_path / "b"


def test_equal_conditions_give_a_paired_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = sides(tmp_path)
    verdict = compare(side(a), side(b))
    assert verdict.winner == "B"
    assert verdict.seeds == (0, 1, 2)
    assert verdict.differences == pytest.approx((-0.5, -0.45, -0.7))
    assert verdict.mean == pytest.approx(-0.55)
    assert run(["compare", str(a), str(b)]) == 0
    line = "3 paired seeds; B is better: beyond 4.303 standard errors of 0 (t, 95%, n = 3)"
    assert line in capsys.readouterr().out


def test_noise_has_no_winner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = sides(tmp_path, bits=(2.3, 2.45, 2.3))  # -2.7 standard errors
    verdict = compare(side(a), side(b))
    assert verdict.winner is None
    assert 2 < -verdict.mean / verdict.spread < verdict.bound
    assert run(["compare", str(a), str(b)]) == 0
    assert "no winner: within 4.303 standard errors of 0 (t, 95%, n = 3)" in capsys.readouterr().out


@pytest.mark.parametrize("seeds", [3, 4, 8])
def test_sides_that_do_not_differ_have_a_winner_one_time_in_twenty(seeds: int) -> None:
    random, wins = Random(seeds), 0
    for _ in range(4000):
        mean, spread, bound = weighed([random.gauss(0.0, 1.0) for _ in range(seeds)])
        wins += abs(mean) > bound * spread
    assert wins / 4000 == pytest.approx(0.05, abs=0.012)  # three and a half standard errors


@pytest.mark.parametrize(
    ("share", "freedom", "quantile"),
    [
        (0.95, 1, 12.7062), (0.95, 2, 4.3027), (0.95, 3, 3.1824), (0.95, 4, 2.7764), (0.95, 9, 2.2622),
        (0.95, 30, 2.0423), (0.99, 2, 9.9248), (0.99, 5, 4.0321), (0.5, 1, 1.0),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_printed_tables(share: float, freedom: int, quantile: float) -> None:
    assert two_sided(share, freedom) == pytest.approx(quantile, abs=5e-5)


@pytest.mark.parametrize(("share", "freedom"), [(0.0, 2), (1.0, 2), (0.95, 0)])
def test_a_quantile_of_nothing_is_refused(share: float, freedom: int) -> None:
    with pytest.raises(InputError, match="expected 0 < share < 1"):
        two_sided(share, freedom)


def test_one_difference_has_no_spread() -> None:
    with pytest.raises(InputError, match="expected at least 2"):
        weighed([0.1])


def score(place: Path, **scores: Any) -> None:
    """Let every run of a side end with more scores, one value for all or one per seed."""
    for seed, metrics in enumerate(sorted(place.glob("*/metrics.jsonl"))):
        own = {key: value[seed] if isinstance(value, tuple) else value for key, value in scores.items()}
        metrics.write_text(json.dumps({**json.loads(metrics.read_text()), **own}) + "\n")


@pytest.mark.parametrize(
    ("name", "winner"),
    [
        ("bits_per_byte", "A"), ("bits_per_byte_memory_off", "A"), ("bits_per_byte_learning", "A"),
        ("accuracy", "B"), ("accuracy_memory_off", "B"),
    ],
)  # fmt: skip
def test_every_score_knows_which_way_is_better(tmp_path: Path, name: str, winner: str) -> None:
    a, b = sides(tmp_path)
    score(a, **{name: 0.25})
    score(b, **{name: (0.75, 0.76, 0.74)})
    assert compare(side(a), side(b), score=name).winner == winner


def test_what_is_no_score_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = sides(tmp_path)
    for name in ("step", "final", "seconds"):
        assert run(["compare", str(a), str(b), "--score", name]) == 2
        assert f"--score {name}; no such score; known: accuracy, " in capsys.readouterr().err
    with pytest.raises(InputError, match='did you mean "bits_per_byte"'):
        compare(side(a), side(b), score="bits_per_bite")
    with pytest.raises(InputError, match="not every run has it, all have: bits_per_byte"):
        compare(side(a), side(b), score="accuracy")


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), True, None])
def test_a_score_that_is_no_number_decides_nothing(
    tmp_path: Path, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = sides(tmp_path)
    score(b, bits_per_byte=value)
    assert run(["compare", str(a), str(b)]) == 4
    assert "expected a finite number" in capsys.readouterr().err


def put(part: int, path: str, value: Any) -> Change:
    def change(*tables: dict[str, Any]) -> None:
        table = tables[part]
        *heads, last = path.split(".")
        for head in heads:
            table = table[head]
        table[last] = value

    return change


CONFOUNDERS: list[tuple[str, Change]] = [
    ("budget", put(0, "run.steps", 77)),
    ("batch", put(0, "run.accumulate", 2)),
    ("data", put(1, "data.sha256", "1" * 64)),
    ("data", put(0, "data.context", 512)),
    ("data", put(0, "data.task", "parity")),
    ("schedule", put(0, "schedule.warmup", 3)),
    ("precision", put(1, "dtype", "bfloat16")),
    ("precision", put(1, "autocast", "bfloat16")),
    ("compile", put(1, "compiled", True)),
    ("device", put(1, "device", "cuda")),
    ("machine", put(1, "machine.processor", "another")),
    ("threads", put(1, "threads", 2)),
    ("versions", put(1, "versions.torch", "2.9.0")),
    ("commit", put(1, "commit", "def")),
    ("commit", put(1, "dirty", True)),
    ("plugins", put(1, "plugins", [{"distribution": "hecate-core", "version": "0.2.0", "digest": "e"}])),
    ("versions", put(1, "versions", {"torch": "2.13.0", "triton": "3.4.0"})),
    ("versions", put(1, "versions", {})),
    ("machine", put(1, "machine", {"cores": 2})),
    ("machine", put(1, "machine.accelerator", "H100")),
    ("backends", put(1, "backends", [{"op": "affine", "asked": "nvrtc", "runs": "nvrtc", "reason": ""}])),
    ("evaluation", put(2, "chance", 0.25)),
    ("wall", put(0, "run.wall", False)),
    ("start", put(1, "start", {"weights": {"sha256": "2" * 64, "step": 4}})),
    ("documents", put(0, "data.documents", True)),
    ("optimizer", put(0, "optimizer.weight_decay", 0.3)),
    ("optimizer", put(0, "optimizer.name", "sgd")),
    ("clip", put(0, "run.clip", "none")),
    ("numerics", put(1, "numerics.float32_matmul", "high")),
    ("resumed", put(1, "resumed", [{"step": 3, "machine": {"processor": "another", "cores": 2}}])),
    ("resumed", put(1, "resumed", [{"step": 3, "versions": {"torch": "2.9.0"}}])),
    ("resumed", put(1, "resumed", [{"step": 3, "commit": "def", "dirty": False}])),
]


@pytest.mark.parametrize(("key", "change"), CONFOUNDERS, ids=range(len(CONFOUNDERS)))
def test_a_confounder_is_refused_by_name_and_printed_when_allowed(tmp_path: Path, key: str, change: Change) -> None:
    a, b = sides(tmp_path, change)
    with pytest.raises(InputError, match=f"no winner is called, because these differ: .*{key}: .* against ") as error:
        compare(side(a), side(b))
    assert "\n" not in str(error.value)
    named = {condition for condition in CONDITIONS if f"{condition}: " in str(error.value)}
    verdict = compare(side(a), side(b), allow=sorted(named))
    assert any(words.startswith(f"{key}: ") for words in verdict.allowed)
    assert named <= {key, "budget", "batch"}  # a larger batch is a larger budget too


def test_a_run_that_went_on_where_it_began_differs_in_nothing(tmp_path: Path) -> None:
    a, b = sides(tmp_path, put(1, "resumed", [{"step": 3, "threads": 1, "commit": "abc", "backends": []}]))
    assert compare(side(a), side(b)).winner == "B"


def test_every_setting_that_differs_stands_below_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = sides(tmp_path, put(0, "model.width", 128))
    assert run(["compare", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("differs: ")] == [
        "differs: model.width 64 against 128", "differs: model.memory.rule delta against titans",
    ]  # fmt: skip
    assert compare(side(a), side(a)).settings == ()


def test_a_side_without_a_memory_differs_in_all_of_it(tmp_path: Path) -> None:
    a, b = sides(tmp_path, put(0, "model.memory", "none"))
    settings = compare(side(a), side(b)).settings
    assert "model.memory.rule delta against none" in settings
    assert all(words.startswith("model.memory") for words in settings)


@pytest.mark.parametrize("missing", ["data", "plugins", "machine", "all"])
def test_a_manifest_of_nothing_is_refused(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = sides(tmp_path)
    place = b / "seed-1" / "manifest.json"
    whole = json.loads(place.read_text())
    kept = {key: value for key, value in whole.items() if key != missing} if missing != "all" else {}
    place.write_text(json.dumps({**kept, "schema": "hecate.run/1"}))
    assert run(["compare", str(a), str(b)]) == 4
    assert f'seed-1/manifest.json: no "{"data" if missing == "all" else missing}"' in capsys.readouterr().err
    place.write_text(json.dumps({**whole, "plugins": [3]}))
    assert run(["compare", str(a), str(b)]) == 4


def test_the_budget_is_what_was_read_not_what_the_config_says(tmp_path: Path) -> None:
    a, b = sides(tmp_path)
    score(b, step=3000)
    with pytest.raises(InputError, match=r"these differ: budget: .* against "):
        compare(side(a), side(b))
    score(b, step="many")
    with pytest.raises(CheckpointError, match="final step = 'many'; expected an integer"):
        side(b)


def test_every_condition_has_its_confounder() -> None:
    assert {key for key, _ in CONFOUNDERS} == set(CONDITIONS)


def test_seeds_must_pair_and_be_three(tmp_path: Path) -> None:
    a, b = sides(tmp_path)
    fake(tmp_path / "b" / "seed-7", "titans", 7, 2.0)
    with pytest.raises(InputError, match=r"seeds differ, A has \[0, 1, 2\], B has \[0, 1, 2, 7\]"):
        compare(side(a), side(b))
    two = ",".join(str(a / f"seed-{seed}") for seed in range(2))
    with pytest.raises(InputError, match="expected at least 3"):
        compare(side(two), side(",".join(str(b / f"seed-{seed}") for seed in range(2))))


def test_sides_that_are_none_are_refused(tmp_path: Path) -> None:
    a, b = sides(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        side(tmp_path / "nowhere")
    (b / "seed-1" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="not finished"):
        side(b)
    fake(tmp_path / "mixed" / "one", "delta", 0, 2.0)
    fake(tmp_path / "mixed" / "two", "titans", 1, 2.0)
    with pytest.raises(InputError, match="mixes 2 configs"):
        compare(side(tmp_path / "mixed"), side(a))
    with pytest.raises(InputError, match='did you mean "threads"'):
        compare(side(a), side(a), allow=["thread"])
