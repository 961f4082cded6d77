"""What is carried from call to call is the model's own: no outer step moves it, and no part of it ends a gradient."""

from typing import Any

import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.building import Build
from hecate_core.checking.architecture import ARCHITECTURE, ModelCase
from hecate_core.checking.cells import tiny, tiny_corpus
from hecate_core.config import Config, make_config
from hecate_core.layer import LevelMemory
from hecate_core.observing import observe
from hecate_core.records import State

TNT = {"name": "tnt", "local_chunks": [4], "shards": [8]}
BEFORE = {"name": "hope", "read": "before", "segment": 64}


def config_of(memory: dict[str, Any], composition: Any, *, batch: int = 1, **model: Any) -> Config:
    table = {
        "width": 8,
        "heads": 2,
        "depth": 1,
        "vocab": 17,
        "composition": composition,
        "attention": {"window": 64},
        "memory": {"chunk": 16, **memory},
        **model,
    }
    data, still = {"batch": batch, "length": 6}, {"warmup": 0, "decay": "constant"}
    return make_config({"data": data, "model": table, "schedule": still, "optimizer": {"lr": 0.05}})


@pytest.mark.parametrize(
    ("memory", "composition", "batch"),
    [
        ({"rule": "titans-deep", "strategy": "frozen"}, "mac", 2),
        ({"rule": "titans-deep", "strategy": "frozen"}, BEFORE, 1),
        ({"rule": "titans-deep", "strategy": TNT}, "lmm", 1),
    ],
    ids=["mac", "hope-before", "tnt"],
)
def test_a_resume_inside_the_first_segment_goes_on_bit_for_bit(
    memory: dict[str, Any], composition: Any, batch: int
) -> None:
    """A learned start that a segment or a chunk still reads: kept as it was, not as the outer steps since made it."""
    config, corpus = config_of(memory, composition, batch=batch), tiny_corpus(17, 4096)
    whole = Build(config, corpus)
    for _ in range(2):
        whole.step()
    parts, meta = whole.parts()
    saved = {part: {name: one.clone() for name, one in tensors.items()} for part, tensors in parts.items()}
    resumed = Build(config, corpus)
    resumed.restore(saved, meta)
    assert [resumed.step()["loss"] for _ in range(5)] == [whole.step()["loss"] for _ in range(5)]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("composition", ["mac", BEFORE], ids=["mac", "hope-before"])
def test_a_level_that_learns_as_it_reads_reads_any_length_beside_restarting_memories(
    composition: Any, graph: bool
) -> None:
    """A shard begins at its learned start, which the segment's own first memory is, too: two tensors, not one."""
    chain = {"channel": "cms", "cms": {"grain": 32, "levels": [{"rate": 0.01}]}}
    config = config_of({"rule": "titans", "strategy": TNT}, composition, **chain)
    model = compose(config)
    for count in (1, 12, 33, 36, 41):
        ids = torch.randint(0, 17, (1, count), generator=torch.Generator().manual_seed(count))
        with torch.set_grad_enabled(graph):
            state = model.init_state(1)
        assert observe(model, ids, ids.roll(-1, 1), state).state.position == count


def test_a_first_state_that_is_a_parameter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny(config_of({"rule": "titans-deep", "strategy": "frozen"}, "lmm"))
    told = {one.name for one in ARCHITECTURE.run("tested", lambda: ModelCase(small)) if not one.ok}
    assert told == set()

    def aliased(self: Any, batch: int) -> State:
        made: State = self._strategy.init_state(self._rule, self.params.record(), batch)
        return made

    monkeypatch.setattr(LevelMemory, "_first", aliased)
    told = {one.name for one in ARCHITECTURE.run("tested", lambda: ModelCase(small)) if not one.ok}
    assert "state-is-no-parameter" in told
