"""KN-03: code and contract that do not say the same."""

import ast
import difflib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, walk
from hecate_lint.learnable import parameter_in
from hecate_lint.model import Hit
from hecate_lint.names import parameters
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark
    from hecate_lint.conformance.spec import Spec

_INLINE = Pattern(r"^#\s*CONTRACT\s+(?P<body>.+)$", re.M)
# What the framework hands to a component: sizes of the model, the implementation chosen. The contract need not list it.
_GIVEN = {"strategy": ("pair", "step_pair", "link_pair"), "composition": ("width", "window")}
_KNOBS = ("structure", "bias", "retention", "algorithm")
# What a class of a kind declares as an attribute, and its contract under the same key.
_DECLARED = {
    "rule": ("inputs",),
    "structure": ("layers", "linear"),
    "bias": ("affine",),
    "retention": ("axis", "domain", "link", "inverse", "project"),
    "algorithm": ("at", "has_momentum", "erases", "step_map"),
    "strategy": ("needs", "exact"),
    "composition": ("attends", "remembers", "recalls"),
}
_MAPS = ("link", "inverse", "project", "step_map")  # there or not: a function, or None


class ContractMismatch(Rule):
    """The CONTRACT block and the code differ in options, knobs, state, parameters, gates or strategies.

    SMELL. An option that the contract lists and the constructor does not take (or the reverse, or another
    default); a knob that the preset fills with another class; a state tensor, parameter, gate or strategy that
    only one side knows; another range, start, axes or declared attribute (`inputs`, `exact`, `axis`, ...). What
    the code computes is not compared here.

    WHY. Whoever reads the spec configures something that does not exist; whoever reads the code learns it too
    late.

    FIX. Make both sides say the same; the message names the nearest spelling.

    TRACE. Kernel rule KN-03; the kit (`hecate check`) compares the contract of a registered rule with the live
    rule, what the code computes included.
    """

    id = "KN-03"
    name = "contract-mismatch"
    group = "kernels"
    severity = "error"
    why = "whoever follows the spec configures something that the code does not have"
    mend = "make contract and code name the same things"

    VALID = """
# CONTRACT knobs: lr, chunk | state: M, S
class Rule(MemoryRule):
    def __init__(self, lr, chunk): ...
    def init_state(self, b): return State(M=zeros(b), S=zeros(b))
# ---
# CONTRACT parameters: alpha_logit
class Rule(MemoryRule):
    def __init__(self):
        self.register_parameter("alpha_logit", nn.Parameter(torch.zeros(())))
# ---
# CONTRACT knobs: lr
class Rule(MemoryRule):
    def __init__(self, **options): ...
# ---
# a CONTRACT is a promise
class Rule(MemoryRule):
    def __init__(self, lr): ...
# ---
# CONTRACT gates: retain, write
class Rule(MemoryRule):
    gates = {"retain": Gate(0.0, 1.0), "write": Gate(0.0, 1.0)}
"""
    INVALID = """
# CONTRACT knobs: lr, chunk | state: M, S
class Rule(MemoryRule):
    def __init__(self, lr): ...  # <-  knob "chunk" is not accepted
# ---
# CONTRACT parameters: alpha_logit
class Rule(MemoryRule):
    def __init__(self):
        self.decay_logit = nn.Parameter(torch.zeros(()))  # <-  not in the contract
# ---
# CONTRACT state: memory, momentum
class Rule(MemoryRule):
    def init_state(self, batch):
        return State(memory=zeros(batch))  # <-
# ---
# CONTRACT knobs: eta
class Rule(MemoryRule):
    def __init__(self, *, eta, eta_t=1.0): ...  # <-
# ---
# CONTRACT gates: retain, write
class Rule(MemoryRule):
    gates = {"retain": Gate(0.0, 1.0), "wirte": Gate(0.0, 1.0)}  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        text = file.source.text
        for match in _INLINE.finditer(text) if "CONTRACT" in text else ():
            said = _inline(match["body"])
            line = file.source.place(match.start())[0]
            cls = min(
                (c for c in file.index.all(ast.ClassDef) if c.lineno > line), key=lambda c: c.lineno, default=None
            )
            if cls is None or not said:
                continue
            yield from self._inline_class(file, cls, said)

    def _inline_class(self, file: File, cls: ast.ClassDef, said: dict[str, set[str]]) -> Iterator[Hit]:
        constructor = file.methods(cls).get("__init__")
        if "knobs" in said and constructor is not None and constructor.args.kwarg is None:
            has = {a.arg for a in parameters(constructor.args)} - {"self"}
            for message in differences(said["knobs"], has, "knob", f"`{cls.name}`"):
                yield Hit(constructor, message)
                break
        state = _state_names(cls)
        if "state" in said and state is not None:
            for message in differences(said["state"], state[0], "state", f"`{cls.name}.init_state`"):
                yield Hit(state[1], message)
                break
        if "parameters" in said:
            for name, attribute in sorted(file.attributes(cls).items()):
                for _, value in attribute.writes:
                    made = parameter_in(file, value)
                    if made is not None and name not in said["parameters"]:
                        tail = f"is not in the contract{_near(name, said['parameters'])}"
                        yield Hit(made, f'parameter "{name}" of `{cls.name}` {tail}')
        gates = _gates(cls)
        if "gates" in said and gates is not None:
            for message in differences(said["gates"], set(gates[0]), "gate", f"`{cls.name}`"):
                yield Hit(gates[1], message)
                break

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every registered component against the contract of its name."""
        for one in project.registrations:
            spec = project.find_spec(one.kind, one.name)
            if spec is None or spec.problem:
                continue
            if spec.contract.get("component", one.target) != one.target:
                message = f'registered as "{one.target}", but its contract says "{spec.contract["component"]}"'
                yield one.file, Hit(one.node, message)
            found = project.component(one)
            if found is not None:
                yield from self._component(project, spec, *found)
            yield from self._strategies(project, spec)

    def _component(
        self, project: "Project", spec: "Spec", file: File, node: Any
    ) -> Iterator["tuple[File, Hit] | Remark"]:
        from hecate_lint.conformance import registered

        has = registered.options(file, node)
        said = spec.contract.get("options", {})
        if has is not None and isinstance(said, dict):
            plain = {name: value for name, value in has.items() if registered.is_known(value) or name in said}
            plain = {
                name: value for name, value in plain.items() if name in said or name not in _GIVEN.get(spec.kind, ())
            }
            place = f'{spec.kind} "{spec.name}"'
            for message in differences(set(said), set(plain), "option", place):
                yield file, Hit(node, message)
            for name in sorted(set(said) & set(has)):
                if registered.is_known(has[name]) and has[name] != said[name]:
                    message = f'option "{name}" of {place} defaults to {has[name]!r}, the contract says {said[name]!r}'
                    yield file, Hit(node, message, severity="warn")
        gates = _gates(node) if isinstance(node, ast.ClassDef) else None
        wanted = spec.contract.get("gates")
        if gates is not None and isinstance(wanted, dict):
            yield from self._gates(file, gates, wanted, f'{spec.kind} "{spec.name}"')
        if isinstance(node, ast.ClassDef):
            yield from self._class(file, node, spec)
        knobs = spec.contract.get("knobs")
        if isinstance(knobs, dict) and isinstance(node, FUNCTIONS):
            yield from self._knobs(project, file, node, knobs)

    def _class(self, file: File, node: ast.ClassDef, spec: "Spec") -> Iterator[tuple[File, Hit]]:
        """What a class declares as literals: state tensors, parameters and the attributes of its kind."""
        place = f'{spec.kind} "{spec.name}"'
        state, said = _state_names(node), spec.contract.get("state")
        if state is not None and isinstance(said, dict):
            for message in differences({path.split(".")[0] for path in said}, state[0], "state", place):
                yield file, Hit(state[1], message)
        params, said = _params(node), spec.contract.get("params")
        if params is not None and isinstance(said, dict):
            has, at = params
            for message in differences(set(said), set(has), "parameter", place):
                yield file, Hit(at, message)
            for name in sorted(set(has) & set(said)):
                if has[name] and has[name] != said[name]:
                    message = f'parameter "{name}" of {place} has the axes "{has[name]}", the contract says'
                    yield file, Hit(at, f'{message} "{said[name]}"')
        for key in _DECLARED.get(spec.kind, ()):
            value, found = _declared(node, key), spec.contract.get(key)
            if value is not None and found is not None and value[0] != found:
                yield file, Hit(value[1], f"{key} of {place} is {value[0]!r}, the contract says {found!r}")

    def _gates(self, file: File, gates: Any, wanted: dict[str, Any], place: str) -> Iterator[tuple[File, Hit]]:
        has, at = gates
        for message in differences(set(wanted), set(has), "gate", place):
            yield file, Hit(at, message)
        for name in sorted(set(has) & set(wanted)):
            given, said = has[name], wanted[name]
            if given is None or not isinstance(said, dict):
                continue
            promised = (said.get("low"), said.get("high"))
            if promised != given.range:
                message = f'gate "{name}" of {place} has the range {given.range}, the contract says {promised}'
                yield file, Hit(at, message)
            elif None not in (given.init, said.get("init")) and given.init != said["init"]:
                message = f'gate "{name}" of {place} starts at {given.init}, the contract says {said["init"]}'
                yield file, Hit(at, message)

    def _knobs(self, project: "Project", file: File, node: Any, knobs: dict[str, Any]) -> Iterator[tuple[File, Hit]]:
        for call in walk(node):
            if isinstance(call, ast.Call) and last_word(call) == "ComposedRule":
                given = {k.arg: k.value for k in call.keywords if k.arg in _KNOBS}
                for kind, value in given.items():
                    name = project.owner(str(kind), last_word(value)) if isinstance(value, ast.Call) else ""
                    said = str(knobs.get(str(kind), "")).split("(")[0]
                    if name and said and name != said:
                        yield file, Hit(value, f'{kind} is "{name}", the contract says "{said}"')

    def _strategies(self, project: "Project", spec: "Spec") -> Iterator["Remark"]:
        from hecate_lint.conformance.project import Remark

        line = spec.line_of("strategies")
        said = spec.contract.get("strategies", {})
        known = project.names("strategy")
        for name, promise in sorted(said.items()) if isinstance(said, dict) else ():
            if promise not in ("exact", "approximate"):
                yield Remark(spec.path, line, f'strategy "{name}" is "{promise}"; exact or approximate would be right')
            if known and "sequential" in known and name not in known:
                yield Remark(spec.path, line, f'strategy "{name}" is not registered{_near(name, known)}')

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.FunctionDef() | m.ClassDef() | m.Call() | m.Dict() | m.Tuple() | m.List() | m.SimpleString() | m.Name()


def differences(said: set[str], has: set[str], what: str, place: str) -> list[str]:
    """One line for each name that only one side knows."""
    lines = [f'{what} "{name}" of the contract is not in {place}{_near(name, has)}' for name in sorted(said - has)]
    return lines + [
        f'{what} "{name}" of {place} is not in the contract{_near(name, said)}' for name in sorted(has - said)
    ]


def _near(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def _inline(body: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part in body.split("|"):
        key, colon, values = part.partition(":")
        if colon and key.strip() in ("knobs", "state", "parameters", "gates"):
            found[key.strip()] = {value.strip() for value in values.split(",") if value.strip()}
    return found


def _state_names(cls: ast.ClassDef) -> tuple[set[str], ast.AST] | None:
    """The keywords of the State that `init_state` returns, where they are written out."""
    for item in cls.body:
        if isinstance(item, FUNCTIONS) and item.name == "init_state":
            for call in walk(item):
                if isinstance(call, ast.Call) and last_word(call) == "State" and all(k.arg for k in call.keywords):
                    return {str(k.arg) for k in call.keywords}, call
    return None


class _Range(NamedTuple):
    """A literal gate: its range, and where it starts if that is written out too."""

    range: tuple[float, float]
    init: float | None


def _gates(cls: ast.ClassDef) -> tuple[dict[str, _Range | None], ast.AST] | None:
    """Gate names with their literal ranges, from `gates = {"retain": Gate(0.0, 1.0), ...}`."""
    value = _attribute(cls, "gates")
    named = _named(value)
    return None if named is None or value is None else ({key: _range(gate) for key, gate in named.items()}, value)


def _params(cls: ast.ClassDef) -> tuple[dict[str, str], ast.AST] | None:
    """Parameter names with their literal axes ("" where they are computed), from `params = {"m": Param("H V K")}`."""
    value = _attribute(cls, "params")
    named = _named(value)
    if named is None or value is None:
        return None
    axes = {key: one.args[0] if isinstance(one, ast.Call) and one.args else None for key, one in named.items()}
    return {key: str(one.value) if isinstance(one, ast.Constant) else "" for key, one in axes.items()}, value


def _named(value: ast.expr | None) -> dict[str, ast.expr] | None:
    """The entries of a dict whose keys are all written out."""
    if not isinstance(value, ast.Dict):
        return None
    keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
    return (
        None if not all(isinstance(key, str) for key in keys) else dict(zip(map(str, keys), value.values, strict=True))
    )


def _attribute(cls: ast.ClassDef, name: str) -> ast.expr | None:
    """What the body of a class gives an attribute, None where it does not."""
    for item in cls.body:
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        if isinstance(item, (ast.Assign, ast.AnnAssign)) and last_word(target) == name:
            return item.value
    return None


def _declared(cls: ast.ClassDef, key: str) -> tuple[Any, ast.AST] | None:
    """An attribute as a contract writes it, with its place; None where it is computed or set by the constructor."""
    from hecate_lint.conformance import registered

    if key in _MAPS:
        method = next((one for one in cls.body if isinstance(one, FUNCTIONS) and one.name == key), None)
        if method is not None:
            return None if any(last_word(one) == "property" for one in method.decorator_list) else (True, method)
    value = _attribute(cls, key)
    if value is None or _is_set_by_instances(cls, key):
        return None
    if key == "needs" and isinstance(value, ast.Name):
        return value.id, value
    found = registered.literal(value)
    if not registered.is_known(found):
        return None
    if key in _MAPS:
        return (False, value) if found == "none" else None
    if isinstance(found, dict):
        found = {name: " ".join(one) if isinstance(one, tuple) else one for name, one in found.items()}
    return found, value


def _is_set_by_instances(cls: ast.ClassDef, name: str) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr == name and isinstance(n.ctx, ast.Store) for n in walk(cls))


def _range(gate: ast.expr) -> _Range | None:
    if not isinstance(gate, ast.Call):
        return None
    given = [a.value for a in gate.args if isinstance(a, ast.Constant)]
    named = {k.arg: k.value.value for k in gate.keywords if isinstance(k.value, ast.Constant)}
    init = given[2] if len(given) > 2 else named.get("init")
    if len(given) >= 2 and all(isinstance(v, (int, float)) for v in given[:2]):
        return _Range((given[0], given[1]), init if isinstance(init, (int, float)) else None)  # type: ignore[arg-type]
    return None
