"""CS-46: a graph tracer over a model whose inner loop it cannot follow."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant, split_words
from hecate_lint.index import FUNCTIONS, LOOPS, Function, class_of, own_nodes, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.storage import METHODS
from hecate_lint.syntax import last_word

_TRACERS = (
    "torch.compile",
    "torch.jit.script",
    "torch.jit.trace",
    "torch.jit.trace_module",
    "torch.jit.script_method",
    "torch.export.export",
    "torch.fx.symbolic_trace",
    "torch.fx.experimental.proxy_tensor.make_fx",
    "torch.cuda.make_graphed_callables",
    "torch._dynamo.optimize",
)
_FLAGS = frozenset({"torch_compile", "use_torch_compile"})
_TIME = frozenset("chunk chunks split token tokens step steps seq time timesteps length len_seq unbind t".split())
_MODELS = frozenset("model net network module memory unit encoder decoder backbone transformer llm policy".split())


class TracingAnInnerLoop(Rule):
    """A model, or a function with an inner loop, is handed to a graph tracer.

    SMELL. `torch.compile(model)`, `@torch.compile` on a function with a token loop or attribute writes,
    `torch.jit.script`, `torch.export.export`, `make_fx` and their kin over a whole model.

    WHY. The tracer unrolls the loop for one length or breaks the graph at each token: compile time explodes,
    and state written inside may be frozen into the graph.

    FIX. Compile the pure pieces (activation, mask, one step); leave the loop to the strategy.

    TRACE. Catalogue smell CS-46; the benchmark report counts graph breaks.
    """

    id = "CS-46"
    name = "tracing-an-inner-loop"
    group = "core"
    severity = "info"
    words = frozenset({name.rsplit(".", 1)[-1] for name in _TRACERS} | _FLAGS | {"ScriptModule"})
    why = "the tracer unrolls the loop over tokens or breaks the graph at each one, and may freeze state into it"
    mend = "compile the pure pieces and leave the loop over tokens untraced"

    VALID = """
class Op(torch.autograd.Function):
    @staticmethod
    @torch.compile
    def forward(ctx, x):
        return x.sign()
loss = fused_loss(logits, labels, torch_compile=True)
model.compile("adam", loss=loss)
model.compile(optimizer=opt, metrics=["accuracy"])
# ---
@torch.compile
def gelu_bias(y, b):
    return torch.nn.functional.gelu(y + b)
# ---
PAT = Pattern(r"\\d+")
@torch.compiler.disable
def probe(x): ...
# ---
code = compile("1 + 1", "<s>", "eval")
if torch.compiler.is_compiling():
    pass
# ---
import triton
@triton.jit
def kernel(x):
    for i in range(4):
        x += i
# ---
@torch.jit.ignore
def helper(x):
    return x
weights = torch.jit.load("w.pt")
# ---
newton_schulz = torch.compile(newton_schulz_step)
"""
    INVALID = """
import torch as t
model = t.compile(MemoryModel(cfg), dynamic=False)  # <-
# ---
class Net(nn.Module):
    @torch.compile  # <-
    def forward(self, x, s):
        for c in x.split(16, 1):
            s = self.update(s, c)
        return s
# ---
def prepare(model, fast):
    return torch.compile(model, mode="max-autotune") if fast else model  # <-
# ---
scripted = torch.jit.script(model)  # <-
# ---
class Net(torch.jit.ScriptModule):  # <-
    pass
# ---
args = TrainingArguments(torch_compile=True)  # <-
# ---
def scan(xs, s):
    for x in xs.unbind(1):
        s = 0.9 * s + x
    return s
fast_scan = torch.compile(scan)  # <-
# ---
model.compile()  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for use in file.names.uses(*_TRACERS):
            above = parent(use)
            short = file.names.resolve(use) or ""
            if isinstance(above, ast.Call) and above.func is use:
                yield from self._call(file, above, short)
            elif isinstance(above, FUNCTIONS) and use in above.decorator_list:
                yield from self._decorated(file, above, use, short)
        for cls in file.index.all(ast.ClassDef):
            for base in cls.bases:
                if file.names.resolve(base) == "torch.jit.ScriptModule":
                    yield Hit(base, f"`{cls.name}` is a ScriptModule: TorchScript traces all of it")
        for keyword in file.index.all(ast.keyword):
            if keyword.arg in _FLAGS and constant(keyword.value) is True and _configures(parent(keyword)):
                yield Hit(keyword, f"`{keyword.arg}=True` compiles the whole model", "likely")
        for node in file.index.word("compile"):
            above = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(above, ast.Call) and above.func is node:
                if (
                    _is_model(node.value)
                    and _is_torchs(file, above)
                    and not (file.names.resolve(node) or "").startswith("torch.")
                ):
                    yield Hit(above, f"`{ast.unparse(node)}` compiles the whole model", "likely")

    def _call(self, file: File, call: ast.Call, tracer: str) -> Iterator[Hit]:
        above = parent(call)
        if isinstance(above, FUNCTIONS) and call in above.decorator_list:
            yield from self._decorated(file, above, call, tracer)
            return
        first = call.args[0] if call.args else None
        function = _function(file, first)
        if function is not None:
            reason = inner_loop(function)
            if reason:
                yield Hit(call, f"`{tracer}` over `{function.name}`, which {reason}", "certain", "warn")
        elif first is not None and (_is_model(first) or _makes_model(file, first)):
            yield Hit(call, f"`{tracer}` over a whole model", "likely")

    def _decorated(self, file: File, function: Function, decorator: ast.expr, tracer: str) -> Iterator[Hit]:
        reason = inner_loop(function)
        if reason:
            yield Hit(decorator, f"`{tracer}` over `{function.name}`, which {reason}", "certain", "warn")
        elif function.name == "forward" and (cls := class_of(function)) is not None and not _is_operation(file, cls):
            yield Hit(decorator, f"`{tracer}` over a module's forward", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.Name() | m.Attribute() | m.Arg(value=m.Name("True"))


def inner_loop(function: Function) -> str:
    """What makes a function no pure piece: a loop over time or chunks, writes to self, in-place writes to arguments."""
    for node in own_nodes(function):
        if isinstance(node, LOOPS) and isinstance(node, (ast.For, ast.AsyncFor)):
            words = {part for n in walk(node.iter) for part in split_words(last_word(n))}
            if words & _TIME:
                return "holds a loop over time"
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return f"writes `self.{node.attr}`"
        if isinstance(node, ast.Attribute) and node.attr in METHODS and isinstance(parent(node), ast.Call):
            start = node.value
            if isinstance(start, ast.Name) and any(arg.arg == start.id for arg in function.args.args):
                return f"writes `{start.id}` in place"
    return ""


def _function(file: File, node: ast.AST | None) -> Function | None:
    if isinstance(node, ast.Name):
        return next((item for item in file.names.bound(node) or [] if isinstance(item, FUNCTIONS)), None)
    return None


def _is_model(node: ast.AST) -> bool:
    words = split_words(last_word(node)) if isinstance(node, (ast.Name, ast.Attribute)) else []
    return bool(words) and words[-1] in _MODELS


def _makes_model(file: File, node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = last_word(node)
    cls = file.classes.get(name)
    if cls is not None:
        return file.is_module_class(cls)
    words = split_words(name)
    return name[:1].isupper() and bool(words) and words[-1] in _MODELS


def _is_torchs(file: File, call: ast.Call) -> bool:
    """Whether `model.compile(...)` is that of torch: Keras and its kin hand over an optimizer and a loss."""
    known = {"fullgraph", "dynamic", "backend", "mode", "options", "disable", None}
    return file.uses_torch and not call.args and {keyword.arg for keyword in call.keywords} <= known


def _configures(call: ast.AST | None) -> bool:
    """Whether a call makes a record or a trainer: a class by its name, not a function that compiles a loss."""
    return isinstance(call, ast.Call) and last_word(call).lstrip("_")[:1].isupper()


def _is_operation(file: File, cls: ast.ClassDef) -> bool:
    """Whether a class is an autograd function: its forward is one operation, and no module's."""
    return file.is_subclass(cls, "torch.autograd.Function")
