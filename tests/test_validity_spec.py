"""The table in specs/validity.md, derived again from what is installed: no cell drifts, differences have reasons."""

import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hecate_core import memory
from hecate_core.checking.validity import judged, verdict
from hecate_core.composed import ComposedRule
from hecate_core.composing import leveled_memory, rule_of, strategy_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.joined import Joined
from hecate_core.knobs.algorithms import GradientDescent
from hecate_core.knobs.matrix import Matrix
from hecate_core.knobs.retentions import NoDecay
from hecate_core.registry import registry
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing.samples import RuleCase, relative

PAGE = Path(__file__).parents[1] / "specs" / "validity.md"
TABLE: dict[str, list[dict[str, Any]]] = tomllib.loads(
    PAGE.read_text("utf-8").split("```VALIDITY\n")[1].split("```")[0]
)
BIASES, STRUCTURES = registry().names("bias"), registry().names("structure")
BROAD = {"valid": {"exact", "approximate"}}


class OnSphere(NoDecay):
    domain = "sphere"
    project = staticmethod(lambda stored: torch.nn.functional.normalize(stored, dim=-2))


class Slots(Matrix):
    domain = "sphere"


class Decaying(GradientDescent):
    decays = True


STRANGERS = {"stranger: sphere": OnSphere, "stranger: slots": Slots, "stranger: decaying": Decaying}


def part(kind: str, reference: Any) -> Any:
    """A component, a stranger's by its word."""
    if isinstance(reference, str) and reference in STRANGERS:
        return STRANGERS[reference]()
    return registry().create(kind, reference)


def composed(knobs: Mapping[str, Any]) -> ComposedRule:
    return ComposedRule("made", **{kind: part(kind, one) for kind, one in knobs.items()})


def derived(rule: Any, strategy: str, options: Mapping[str, Any]) -> str:
    made = rule_of(rule)
    if not options:
        return judged(made, strategy)[0]
    return verdict(made, strategy_of({"name": strategy, **options}, made))[0]


@pytest.mark.parametrize("row", TABLE["rule"], ids=lambda row: row["family"])
def test_a_family_of_rules_is_served_as_the_page_says(row: dict[str, Any]) -> None:
    assert row["ours"].keys() == row["published"].keys()
    for rule in row["rules"]:
        found = {name: derived(rule, name, row.get("options", {}).get(name, {})) for name in row["ours"]}
        assert found == row["ours"], rule
        assert judged(rule_of(rule), "sequential") == ("exact", "")
    same = all(row["ours"][name] in BROAD.get(told, {told}) for name, told in row["published"].items())
    assert same == ("why" not in row), "a difference wants a reason, and nothing else does"


def test_no_rule_and_no_strategy_is_left_out() -> None:
    told = {one if isinstance(one, str) else one.get("name") for row in TABLE["rule"] for one in row["rules"]}
    assert told - {None} == set(registry().names("rule"))
    strategies = {name for row in TABLE["rule"] for name in row["ours"]}
    assert {*strategies, "sequential"} == set(registry().names("strategy"))


def strongest(knobs: Mapping[str, Any]) -> str:
    """The strongest form of the rule of some knobs, or "refused"."""
    try:
        made = composed(knobs)
    except CompositionError:
        return "refused"
    for form, word in ((Affine, "exact"), (Linearised, "frozen")):
        if not isinstance(made.offers(form), Refused):  # type: ignore[type-var]
            return word
    return "sequential"


def everywhere(found: list[str], names: list[str]) -> str | list[str]:
    return "all" if found == names else found


@pytest.mark.parametrize("row", TABLE["retention"], ids=lambda row: row["name"])
def test_a_retention_goes_with_what_the_page_says(row: dict[str, Any]) -> None:
    knobs = {"structure": "matrix", "bias": "l2", "retention": row["name"], "algorithm": "gd"}
    losses = [one for one in BIASES if strongest({**knobs, "bias": one}) != "refused"]
    structures = [one for one in STRUCTURES if strongest({**knobs, "structure": one}) != "refused"]
    found = {
        "losses": everywhere(losses, BIASES),
        "plain": strongest(knobs),
        "momentum": strongest({**knobs, "algorithm": "momentum"}),
        "structures": everywhere(structures, STRUCTURES),
    }
    assert found == row["ours"]
    told = row["published"]
    agrees = (told["losses"], told["structures"]) == (found["losses"], found["structures"])
    agrees = agrees and told["exact"] == (found["plain"] == "exact")
    agrees = agrees and told["momentum"] == (found["momentum"] != "refused")
    assert agrees == ("why" not in row), "a difference wants a reason, and nothing else does"


def test_no_retention_is_left_out() -> None:
    assert sorted(row["name"] for row in TABLE["retention"]) == registry().names("retention")


def refusal(row: Mapping[str, Any]) -> str:
    """The line that says why not, or ""."""
    try:
        if "parts" in row:
            Joined(parts=[part("retention", one) for one in row["parts"]])
        elif "knobs" in row:
            composed(row["knobs"])
        elif "reset" in row:
            given = dict(row["reset"])
            leveled_memory(8, 2, levels=[given.pop("level")], **given)
        else:
            case = RuleCase(rule_of(row["starts"]))
            tokens = case.tokens(5, inner=True)
            marks = torch.zeros(tokens.q.shape[0], 5, dtype=torch.bool)
            marks[:, 2] = True
            inputs = {name: tokens[name] for name in case.rule.inputs}
            gates = {name: tokens[name] for name in case.rule.gates}
            memory(**inputs, gates=gates, rule=row["starts"], strategy=row["strategy"], starts=marks, chunk_size=4)
    except CompositionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("row", TABLE["refused"], ids=lambda row: row["what"])
def test_what_cannot_be_is_refused_with_its_reason(row: dict[str, Any]) -> None:
    found = refusal(row)
    assert row["words"] in found
    assert "\n" not in found


PLAIN = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"}


@pytest.mark.parametrize("row", [one for one in TABLE["refused"] if "knobs" in one], ids=lambda row: row["what"])
def test_each_refusal_needs_both_of_its_parts(row: dict[str, Any]) -> None:
    """With any one part replaced by a plain one the four are a rule, or refused for another reason."""
    blamed = [kind for kind, one in row["knobs"].items() if one != PLAIN[kind]]
    for kind in blamed:
        found = refusal({"knobs": {**row["knobs"], kind: PLAIN[kind]}})
        assert row["words"] not in found, f"{kind} has no part in it"


@pytest.mark.parametrize("row", [one for one in TABLE["refused"] if "reset" in one], ids=lambda row: row["what"])
def test_a_reset_is_refused_for_its_anchors_alone(row: dict[str, Any]) -> None:
    """Served where no gradient is frozen, and at the end of a chunk."""
    given = dict(row["reset"])
    level, anchors = given.pop("level"), int(row["words"].partition("every ")[2].partition("th")[0])
    leveled_memory(8, 2, levels=[level], **{**given, "strategy": "sequential"})
    leveled_memory(8, 2, levels=[level], **{**given, "grain": anchors})


def test_a_document_between_calls_begins_anew_wherever_it_lies_in_a_chunk() -> None:
    """Tokens 0 to 5 and 6 to 9 under chunk 4: from a first state at token 6 the second text is as if it stood alone."""
    case, strategy = RuleCase(rule_of("titans")), Frozen(chunk=4)
    tokens = case.tokens(10, inner=True)
    reads = []
    for begin, end in pairwise((0, 6, 10)):
        first = strategy.init_state(case.rule, case.params, 2)
        some = tokens.map(lambda one, a=begin, b=end: one[:, :, a:b])  # type: ignore[misc]
        reads.append(strategy(case.rule, case.params, some, first)[0])
    assert reads[1].shape[2] == 4
    whole, _ = strategy(case.rule, case.params, tokens, strategy.init_state(case.rule, case.params, 2))
    assert relative(torch.cat(reads, 2)[:, :, 6:], whole[:, :, 6:]) > 1e-3


def test_only_a_strategy_that_reads_like_the_loop_inherits_exactness() -> None:
    """For a rule whose factors ignore the anchor: `frozen` reading after each write is the loop, other ways are not."""
    case = RuleCase(rule_of("hebbian"))
    tokens = case.tokens(9, inner=True)
    expected, _ = Sequential()(case.rule, case.params, tokens, case.fresh())
    for read, word in (("token", "exact"), ("anchor", "approximate")):
        strategy = Frozen(chunk=4, read=read)
        assert verdict(case.rule, strategy)[0] == word  # type: ignore[arg-type]
        y, _ = strategy(case.rule, case.params, tokens, strategy.init_state(case.rule, case.params, 2))
        assert (relative(y, expected) < 1e-9) == (word == "exact")
