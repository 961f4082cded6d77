"""CS-48: one retention for several levels."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.confirming import call_of
from hecate_lint.facts import File, arguments, constant, split_words
from hecate_lint.index import ancestors, class_of, parent, walk
from hecate_lint.learnable import parameter_in
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.vocabulary import LEVELS, RETENTION, RETENTION_WEAK

_LOOPS = (ast.For, ast.AsyncFor, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)


class SharedRetention(Rule):
    """One retention parameter serves several frequency levels.

    SMELL. A single learned retention read in a loop over levels; the same object repeated for each level (`[p]
    * n`, `itertools.repeat`, a comprehension that ignores its variable); one retention module handed to every
    level; a config with several levels and one number.

    WHY. A level that acts every 512 tokens needs another memory span than one that acts on each: shared, the
    gradients of both pull one number two ways and neither level gets its span.

    FIX. One parameter per level: `nn.ParameterList(nn.Parameter(init.clone()) for _ in levels)`, indexed by the
    level.

    TRACE. Catalogue smell CS-48; runtime probe: gradient cosine between levels on shared parameters.
    """

    id = "CS-48"
    name = "shared-retention-across-levels"
    group = "core"
    severity = "warn"
    why = "levels with different periods need different memory spans, and one number cannot have both"
    mend = "give each level its own: nn.ParameterList(nn.Parameter(init.clone()) for _ in levels)"

    VALID = """
self.decay_logits = nn.ParameterList(nn.Parameter(torch.tensor(4.0)) for _ in frequencies)
# ---
self.levels = nn.ModuleList(Level(f) for f in frequencies)
# ---
class CMS(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.decay_logit = nn.Parameter(torch.zeros(len(levels)))
        self.levels = levels
    def forward(self, states, u):
        return [torch.sigmoid(self.decay_logit[i]) * s + u for i, s in enumerate(states)]
# ---
widths = [width] * len(levels)
names = ["decay"] * len(levels)
# ---
class M(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(()))
        self.layers = layers
    def forward(self, x):
        for layer in self.layers:
            x = layer(x, torch.sigmoid(self.decay))
        return x
# ---
cfg = Config(levels=1, decay=0.9)
decays = [decay] * batch
# ---
for level in levels:
    level.decay = decay_for(level)
"""
    INVALID = """
class CMS(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.decay_logit = nn.Parameter(torch.tensor(4.0))
        self.levels = levels
    def forward(self, states, u):
        return [torch.sigmoid(self.decay_logit) * s + u for s in states]  # <-
# ---
decays = [decay] * len(frequencies)  # <-
# ---
import itertools
retentions = list(itertools.repeat(self.retention, num_levels))  # <-
# ---
by_level = {name: forget_gate for name in level_names}  # <-
# ---
class Bank(nn.Module):
    def __init__(self, frequencies):
        super().__init__()
        self.retention = Retention()
        self.levels = nn.ModuleList(Level(f, retention=self.retention) for f in frequencies)  # <-
# ---
cfg = UnitConfig(levels=3, retention=0.98)  # <-
# ---
class CMS(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.0))
        self.levels = levels
    def step(self, u):
        for level in self.levels:
            level.absorb(u, retain=torch.sigmoid(self.alpha))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if not any(LEVELS & set(split_words(word)) for word in file.index.words):
            return
        yield from self._repeated(file)
        yield from self._comprehended(file)
        yield from self._read_in_loops(file)
        for call in file.index.all(ast.Call):
            yield from self._configured(call)

    def _repeated(self, file: File) -> Iterator[Hit]:
        for node in file.index.all(ast.BinOp):
            if isinstance(node.op, ast.Mult):
                pair = (node.left, node.right) if isinstance(node.left, ast.List) else (node.right, node.left)
                listed, count = pair
                if isinstance(listed, ast.List) and len(listed.elts) == 1 and _counts_levels(count):
                    name = retention_name(listed.elts[0])
                    if name:
                        yield Hit(node, f"`{name}` is one object, repeated for every level", "likely")
        for call in file.names.calls("itertools.repeat"):
            if len(call.args) == 2 and _counts_levels(call.args[1]) and retention_name(call.args[0]):
                yield Hit(call, f"`{retention_name(call.args[0])}` is one object, repeated for every level", "likely")

    def _comprehended(self, file: File) -> Iterator[Hit]:
        """`[p for _ in levels]`, `{name: p for name in levels}`, `Level(f, retention=p) for f in levels`."""
        for node in file.index.all(ast.ListComp, ast.GeneratorExp, ast.DictComp):
            generator = node.generators[0]  # type: ignore[attr-defined]
            if not _over_levels(generator.iter):
                continue
            made = node.value if isinstance(node, ast.DictComp) else node.elt  # type: ignore[attr-defined]
            name = retention_name(made)
            if name and name not in _targets(generator.target):
                yield Hit(node, f"`{name}` is one object for every level", "likely")
            elif isinstance(made, ast.Call):
                for value in [*made.args, *(k.value for k in made.keywords)]:
                    name = retention_name(value)
                    if name.startswith("self.") and _is_one_module(file, value):
                        yield Hit(node, f"`{name}` is handed to every level", "likely")

    def _read_in_loops(self, file: File) -> Iterator[Hit]:
        for cls in file.index.all(ast.ClassDef):
            for name, attribute in sorted(file.attributes(cls).items()):
                if not is_retention(name) or not any(
                    parameter_in(file, value) is not None for _, value in attribute.writes
                ):
                    continue
                if any(not _is_scalar(value) for _, value in attribute.writes):
                    continue
                for read in attribute.reads:
                    loop = next((at for at in ancestors(read) if isinstance(at, _LOOPS)), None)
                    if loop is not None and _loops_over_levels(loop, read) and class_of(read) in file.lineage(cls):
                        yield Hit(read, f"`self.{name}` is one learned retention, read for every level", "likely")

    def _configured(self, call: ast.Call) -> Iterator[Hit]:
        given = arguments(call)
        count = next(
            (constant(value) for key, value in given.items() if key in ("levels", "num_levels", "n_levels")), None
        )
        if isinstance(count, int) and count > 1:
            for key, value in given.items():
                if is_retention(key) and isinstance(constant(value), float):
                    yield Hit(call, f"`{key}` is one number for {count} levels", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        if isinstance(hit.node, ast.BinOp):
            single = m.List(elements=[m.Element()])
            times = m.Multiply()
            return m.BinaryOperation(operator=times, left=single) | m.BinaryOperation(operator=times, right=single)
        if isinstance(hit.node, ast.Attribute):
            return m.Attribute(value=m.Name("self"), attr=m.Name(hit.node.attr))
        if isinstance(hit.node, ast.Call):
            return call_of(m, hit.node)
        return m.ListComp() | m.GeneratorExp() | m.DictComp()


def is_retention(identifier: str) -> bool:
    """Whether an identifier says retention."""
    parts = {part.rstrip("s") for part in split_words(identifier)} | set(split_words(identifier))
    return bool(parts & (RETENTION | RETENTION_WEAK)) and not parts & {
        "rate",
        "weight",
        "lr",
        "step",
        "type",
        "name",
        "fn",
    }


def retention_name(node: ast.AST) -> str:
    """The text of a name or attribute that says retention; empty for anything else."""
    if isinstance(node, ast.Name) and is_retention(node.id):
        return node.id
    if isinstance(node, ast.Attribute) and is_retention(node.attr):
        return ast.unparse(node)
    return ""


def _counts_levels(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len" and node.args:
        return _over_levels(node.args[0])
    return isinstance(node, (ast.Name, ast.Attribute)) and _over_levels(node)


def _over_levels(node: ast.AST) -> bool:
    for part in walk(node):
        word = part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
        if LEVELS & set(split_words(word)):
            return True
    return False


def _targets(target: ast.AST) -> set[str]:
    return {node.id for node in walk(target) if isinstance(node, ast.Name)}


def _loops_over_levels(loop: ast.AST, read: ast.Attribute) -> bool:
    generators = getattr(loop, "generators", None)
    iterated = generators[0].iter if generators else loop.iter  # type: ignore[attr-defined]
    if any(node is read for node in walk(iterated)):
        return False
    above = parent(read)
    if isinstance(above, ast.Subscript) and above.value is read:
        return False
    cls = class_of(read)
    has_levels = cls is not None and any(_over_levels(item) for item in cls.body)
    states = any(getattr(n, "id", getattr(n, "attr", "")) == "states" for n in walk(iterated))
    return _over_levels(iterated) or (states and has_levels)


def _is_one_module(file: File, value: ast.AST) -> bool:
    cls = class_of(value)
    if cls is None or not isinstance(value, ast.Attribute):
        return False
    entry = file.attributes(cls).get(value.attr)
    return entry is not None and any(isinstance(v, ast.Call) for _, v in entry.writes)


def _is_scalar(value: ast.AST | None) -> bool:
    """Whether a parameter's initial value is a scalar, as far as it is written out."""
    for node in walk(value) if value is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("zeros", "ones", "full", "rand", "randn", "empty", "linspace", "arange"):
                return bool(node.args) and isinstance(node.args[0], ast.Tuple) and not node.args[0].elts
            if node.func.attr in ("ParameterList", "ParameterDict"):
                return False
    return True
