"""Documents inside a row of a whole model: memory, window and convolution begin anew, or the reason why not is told."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.building import Build
from hecate_core.config import make_config
from hecate_core.corpus import Corpus
from hecate_core.errors import CompositionError
from hecate_core.model import LanguageModel
from hecate_core.shapes import Tensor

from .sequences import relative

EXACT = 1e-10  # float64
COUNT = 150  # several blocks of queries
BORDERS = ([0, 9, 10, 100], [4, 70])
SERVED = ["lmm", "mag", "mal", "attention"]


def model_of(composition: str, **memory: Any) -> LanguageModel:
    model: dict[str, Any] = {"width": 16, "heads": 2, "depth": 2, "composition": composition}
    model["attention"] = {"window": 6, "persistent": 2}
    if composition != "attention":
        model["memory"] = {"rule": "titans", "chunk": 16, **memory}
    else:
        model["memory"] = "none"
    return compose(make_config({"model": model})).double()


def ids_of() -> Tensor:
    return torch.randint(256, (2, COUNT), generator=torch.Generator().manual_seed(1))


def marks() -> Tensor:
    starts = torch.zeros(2, COUNT, dtype=torch.bool)
    for row, places in enumerate(BORDERS):
        starts[row, places] = True
    return starts


@torch.inference_mode()
@pytest.mark.parametrize("composition", SERVED)
def test_every_document_is_as_if_it_had_been_read_alone(composition: str) -> None:
    model, ids = model_of(composition), ids_of()
    logits, _ = model(ids, model.init_state(2), starts=marks())
    for row, places in enumerate(BORDERS):
        for start, stop in pairwise(sorted({0, *places, COUNT})):
            alone, _ = model(ids[row : row + 1, start:stop], model.init_state(1))
            assert relative(logits[row : row + 1, start:stop], alone) < EXACT
    unmarked, _ = model(ids, model.init_state(2))
    assert relative(unmarked, logits) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("composition", SERVED)
def test_a_row_with_documents_may_be_cut_anywhere(composition: str) -> None:
    model, ids, starts = model_of(composition), ids_of(), marks()
    whole, end = model(ids, model.init_state(2), starts=starts)
    state, parts = model.init_state(2), []
    for piece, mark in zip(ids.split([3, 4, 1, 2, 90, 50], 1), starts.split([3, 4, 1, 2, 90, 50], 1), strict=True):
        logits, state = model(piece, state, starts=mark if mark.any() else None)
        parts.append(logits)
    assert relative(torch.cat(parts, 1), whole) < EXACT
    for name, tensor in end.flat().items():
        assert relative(state.flat()[name].double(), tensor.double()) < EXACT, name


@torch.inference_mode()
@pytest.mark.parametrize("composition", ["mac", "mac-printed"])
def test_a_composition_that_looks_over_a_start_refuses_it(composition: str) -> None:
    model = model_of(composition)
    with pytest.raises(CompositionError, match="document starts") as error:
        model(ids_of(), model.init_state(2), starts=marks())
    assert "\n" not in str(error.value)


def test_a_build_with_documents_tells_the_model_where_they_begin() -> None:
    """One run reads two documents in turns, another only the second: with the marks, that one learns the same."""
    text = b"".join(bytes([97 + (i * 7) % 13]) * 2 for i in range(160))
    tables: dict[str, Any] = {
        "data": {"batch": 2, "length": 40},
        "run": {"steps": 3},
        "model": {"width": 8, "heads": 2, "depth": 1, "composition": "mag", "memory": {"rule": "delta"}},
    }

    def losses(head: bytes, *, documents: bool) -> list[float]:
        tables["data"]["documents"] = documents
        corpus = Corpus("two", head + text, (0, 10, 170), (text[:50],), "0" * 64)
        made = Build(make_config(tables), corpus)
        seen: list[Tensor] = []
        made.model.register_forward_hook(lambda _, __, result: seen.append(result[0].detach()))
        made.step()
        return [float(one[:, 10:].double().sum()) for one in seen]

    assert losses(b"x" * 10, documents=True) == losses(b"y" * 10, documents=True)
    assert losses(b"x" * 10, documents=False) != losses(b"y" * 10, documents=False)
