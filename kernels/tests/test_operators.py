"""Every pair stands behind torch operators that export, compile and opcheck see through."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
import torch
from hecate_kernels.host import HostLauncher
from hecate_kernels.pair import Trial
from ramp import RampPair
from torch import Tensor

from hecate_core import MemoryLayer
from hecate_core.api import AffineTokens, InputError, registry
from hecate_core.backends import pair_for
from hecate_core.ops.affine import affine
from hecate_core.ops.operator import Operator, is_shaping, operator_of, shaping

HOST = [name for name in registry().names("pair") if registry().create("pair", name).backend == "host"]
SHORT = {"forward": "fwd", "backward": "bwd"}
EVERYTHING = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic", "test_autograd_registration")
Calls = list[tuple[str, tuple[Any, ...]]]
Given = TypeVar("Given", bound=tuple[Any, ...])


def _smallest(pair: Any) -> list[Trial]:
    """One quick case per dtype, and that of a single token, which has a kernel of its own in some pairs."""
    by_dtype = {trial.dtype: trial for trial in pair.trials(False) if trial.quick}
    first = next(iter(pair.trials(False)))
    return list({trial.name: trial for trial in (first, *by_dtype.values())}.values())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Calls]:
    """What the methods of a pair's class are called with in its own trials."""

    def record(pair: Any) -> Calls:
        calls: Calls = []
        for name in ("forward", "backward"):
            owner = next(one for one in type(pair).__mro__ if name in vars(one))
            real = vars(owner)[name]

            def told(self: Any, *given: Any, real: Any = real, name: str = name) -> Any:
                calls.append((name, given))
                return real(self, *given)

            monkeypatch.setattr(owner, name, told)
        for trial in _smallest(pair):
            trial.run(HostLauncher())
        monkeypatch.undo()
        return calls

    return record


def _flat(value: Any) -> Iterator[Any]:
    """Arguments as a schema lists them: records opened, lists of saved tensors kept."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _all(value: Any) -> Iterator[Tensor | None]:
    if isinstance(value, tuple):
        for one in value:
            yield from _all(one)
    else:
        yield value


def _of_schema(operator: Any, given: tuple[Any, ...]) -> list[Any]:
    """The flat arguments of a call, seen from the schema alone."""
    kinds = [str(one.type) for one in operator._schema.arguments]
    flat: list[Any] = []
    for value in given:
        for one in _flat(value):
            if isinstance(one, tuple) and not (len(flat) < len(kinds) and kinds[len(flat)].startswith("List")):
                flat.extend(one)
            else:
                flat.append(list(one) if isinstance(one, tuple) else one)
    return flat


def _schema(name: str) -> str:
    return str(getattr(torch.ops.hecate, name).default._schema)


@pytest.mark.parametrize("name", HOST)
def test_every_pair_passes_opcheck(name: str, recorded: Callable[[Any], Calls]) -> None:
    pair = registry().create("pair", name)
    behind = operator_of(pair)
    calls = recorded(pair)
    assert {which for which, _ in calls} == {"forward", "backward"}
    for place, (which, given) in enumerate(calls):
        operator = getattr(torch.ops.hecate, f"{behind.name}_{SHORT[which]}").default
        utils = EVERYTHING if place < 2 else EVERYTHING[1:2]  # forward and backward of the first case, then shapes
        torch.library.opcheck(operator, _of_schema(operator, given), test_utils=utils)


@pytest.mark.parametrize("name", HOST)
def test_an_operator_computes_what_its_pair_computes(name: str, recorded: Callable[[Any], Calls]) -> None:
    pair = registry().create("pair", name)
    behind = operator_of(pair)
    for which, given in recorded(pair):
        direct, through = getattr(pair, which)(*given), getattr(behind, which)(*given)
        assert type(direct) is type(through)
        for one, other in zip(_all(direct), _all(through), strict=True):
            assert (one is None and other is None) or (torch.equal(one, other) and one.stride() == other.stride())


def test_a_strangers_pair_is_an_operator_by_its_annotations() -> None:
    behind = Operator(RampPair())
    assert _schema("ramp_host_fwd") == ("hecate::ramp_host_fwd(Tensor x, Tensor keep) -> (Tensor, Tensor[])")
    x, keep = torch.randn(3, 20), torch.rand(3, 20)
    torch.library.opcheck(torch.ops.hecate.ramp_host_fwd.default, (x, keep))
    y, saved = behind.forward(x, keep)
    assert saved[0] is keep  # an argument that is saved costs no copy
    torch.library.opcheck(torch.ops.hecate.ramp_host_bwd.default, (list(saved), y, torch.ones_like(y)))


class Pieces(NamedTuple):
    left: Tensor
    right: Tensor | None


class Odd:
    """An op whose results a torch operator would not accept as they are."""

    op, backend = "odd", "host"

    def forward(self, pieces: Pieces, other: Pieces, times: int) -> tuple[Pieces, Tensor | None]:
        both = torch.stack((pieces.left, other.left)) * times
        first, second = both.unbind(0)  # two views of one memory
        return Pieces(first, second), pieces.right

    def backward(self, saved: tuple[Tensor, ...], d: Tensor) -> Tensor:
        return d


def test_results_that_are_none_views_or_arguments_come_back_as_they_are() -> None:
    behind = Operator(Odd())
    assert _schema("odd_host_fwd") == (
        "hecate::odd_host_fwd(Tensor pieces_left, Tensor? pieces_right, Tensor other_left, Tensor? other_right, "
        "int times) -> (Tensor, Tensor, Tensor)"
    )
    a, b = torch.randn(2, 3)
    (first, second), nothing = behind.forward(Pieces(a, None), Pieces(b, None), 2)
    assert torch.equal(first, 2 * a)
    assert torch.equal(second, 2 * b)
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert nothing is None
    _, same = behind.forward(Pieces(a, b), Pieces(b, None), 2)
    assert same is b
    torch.library.opcheck(torch.ops.hecate.odd_host_fwd.default, (a, b, b, None, 2))


class Family(Generic[Given]):
    backend = "host"

    def forward(self, given: Given) -> tuple[Given, Tensor]:
        return given, given[0]

    def backward(self, saved: tuple[Given, Tensor]) -> Given:
        return saved[0]


class Branch(Family[Given]):
    op = "family"


class Member(Branch[Pieces]):
    pass


def test_a_generic_base_is_read_with_what_its_subclass_puts_in() -> None:
    Operator(Member())
    assert (
        _schema("family_host_fwd") == "hecate::family_host_fwd(Tensor left, Tensor? right) -> (Tensor, Tensor, Tensor)"
    )
    with pytest.raises(InputError, match=r'^Branch\.forward: "given" is Given; an operator takes Tensor, '):
        Operator(Branch())


class Unreadable:
    op, backend = "unreadable", "host"

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        return given["x"]

    def backward(self, saved) -> Tensor:  # type: ignore[no-untyped-def]
        return saved


def test_annotations_that_no_operator_can_have_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r'^Unreadable\.forward: "given" is dict; an operator takes Tensor, '):
        Operator(Unreadable())
    Unreadable.forward = lambda self, given: given  # type: ignore[assignment, method-assign]
    with pytest.raises(InputError, match=r'"given" has no annotation'):
        Operator(Unreadable())


def test_two_classes_cannot_be_one_operator() -> None:
    class Second(Odd):
        backend = "elsewhere"

    first = operator_of(Second())
    assert operator_of(Second()) is first

    class Third(Odd):
        backend = "elsewhere"

    with pytest.raises(InputError, match=r'op "odd" on backend "elsewhere": two pairs are offered'):
        operator_of(Third())


def test_shaping_runs_nothing_and_ends() -> None:
    pair = RampPair()
    with shaping():
        y, _ = pair.forward(torch.zeros(3, 20, device="meta"), torch.zeros(3, 20, device="meta"))
        assert y.device.type == "meta"
        assert is_shaping()
    assert not is_shaping()


def _tokens() -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.nn.functional.normalize(torch.randn(3, 1, 2, 7, 16), dim=-1)
    return [one.requires_grad_() for one in (q, k, v, *torch.rand(3, 1, 2, 7))], torch.randn(1, 2, 16, 16)


def _learned(call: Callable[..., Tensor], given: list[Tensor], memory: Tensor) -> list[Tensor]:
    y = call(given, memory)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), given)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_op_compiles_as_one_graph_with_its_backward() -> None:
    pair = pair_for("affine", "host")

    def call(given: list[Tensor], memory: Tensor) -> Tensor:
        return affine(AffineTokens(*given, None, None), memory, None, 64, pair)[0]

    eager = _learned(call, *_tokens())
    torch.compiler.reset()
    compiled = _learned(torch.compile(call, fullgraph=True, backend="aot_eager"), *_tokens())
    for one, other in zip(eager, compiled, strict=True):
        assert torch.equal(one, other)


LAYERS = [
    ("delta", "chunkwise"),
    *(
        pytest.param(*cell, marks=pytest.mark.soak)
        for cell in (
            ("memora", "frozen"),
            ("titans", "chunkwise"),
            ("kda", "chunkwise"),
            ("omega", "chunkwise"),
            ("titans", "frozen"),
            ("yaad", "frozen"),
            ("moneta", "frozen"),
            ("atlas", "frozen"),
            ("lattice", "sequential"),
            ("trellis", "sequential"),
        )
    ),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("rule", "strategy"), LAYERS)
def test_a_whole_layer_compiles_as_one_graph(rule: str, strategy: str) -> None:
    torch.manual_seed(0)
    layer = MemoryLayer(16, heads=1, rule=rule, strategy=strategy, levels=[1], chunk=4, backend="host")
    x = torch.randn(2, 9, 16)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(x)[0]
    assert torch.allclose(y, layer(x)[0], atol=1e-6)
    found, wanted = (torch.autograd.grad(one.square().sum(), list(layer.parameters()), allow_unused=True)
                     for one in (y, layer(x)[0]))  # fmt: skip
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", ["titans", "kda"])
def test_a_layer_exports_with_its_kernels_as_one_node(rule: str) -> None:
    torch.manual_seed(0)
    layer, x = MemoryLayer(32, heads=2, rule=rule, backend="host"), torch.randn(2, 9, 32)
    with torch.no_grad():
        expected, state = layer(x)
        program = torch.export.export(layer, (x,))
        graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
        targets = [str(node.target) for graph in graphs for node in graph.nodes]  # the memory runs without autocast
        found = [target for target in targets if target.startswith("hecate.")]
        assert len(found) == 1
        assert found[0].endswith("_host_fwd.default")
        y, after = program.module()(x)
    assert torch.equal(y, expected)
    assert all(torch.equal(one, after.flat()[name]) for name, one in state.flat().items())


class Lending(Odd):
    backend = "lending"

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.view(-1)


def test_a_result_that_is_a_view_of_an_argument_is_refused_when_it_is_traced() -> None:
    behind, x = Operator(Lending()), torch.randn(2, 3)
    assert torch.equal(behind.forward(x), x.view(-1))
    with pytest.raises(Exception, match=r"Lending\.forward: a result is a view of an argument"):
        torch.library.opcheck(torch.ops.hecate.odd_lending_fwd.default, (x,), test_utils="test_faketensor")
