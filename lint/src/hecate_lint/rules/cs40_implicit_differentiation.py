"""CS-40: gradient recording that nobody decided on."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.confirming import call_of, switched_on
from hecate_lint.evaluating import is_handed_a_model, measures, runs_model
from hecate_lint.facts import File, constant, split_words
from hecate_lint.index import LOOPS, Function, ancestors, function_of, own_nodes, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.switches import (
    callers_off,
    differentiated,
    differentiates,
    is_entry,
    is_forward_path,
    is_gradient,
    is_hook,
    passes_on,
    switched_off,
    under_no_grad,
    yields_graph,
)
from hecate_lint.syntax import last_word
from hecate_lint.vocabulary import EVALUATION

_REGISTERS = frozenset({"register_inner_loop", "register_kernel", "register_probe"})
_MARKS = frozenset({"autodiff", "custom_vjp", "no_autodiff"})
_MARK_IT = "mark it @autodiff, @custom_vjp(...) or @no_autodiff"
_SCALARS = frozenset("item detach float tolist cpu_float numpy detach_".split())


class ImplicitDifferentiation(Rule):
    """Work outside the outer gradient is recorded by autograd because nobody said otherwise.

    SMELL. (a) An evaluation, generation or probe function runs the model without no_grad or inference_mode. (b)
    A loss that is differentiated is also added, appended or stored for reporting without `.detach()` or
    `.item()`. (c) In a package over Hecate: a function that its own `register_inner_loop`, `register_kernel` or
    `register_probe` is given, without `@autodiff`, `@custom_vjp` or `@no_autodiff`. (d) An inner loop under
    `enable_grad` whose result is never detached. (e) `retain_graph=True` where nothing differentiates a second
    time.

    WHY. Every recorded step keeps its activations: memory grows with the length of the run and the first sign
    is an out-of-memory error hours later. In evaluation it also lets a stray backward reach the model.

    FIX. Say it: `@torch.inference_mode()` on the function, `.detach()` on what is kept. A function that needs
    an inner gradient says so with `torch.enable_grad()` and detaches at its border.

    TRACE. Catalogue smell CS-40; runtime check: graph nodes and memory stay flat over steps.
    """

    id = "CS-40"
    name = "implicit-differentiation"
    group = "core"
    severity = "warn"
    fix_kind = "safe"
    why = "each recorded step keeps its whole graph alive, so memory grows until the run dies far from the cause"
    mend = "decorate with @torch.inference_mode(), or keep loss.detach()"

    VALID = """
@torch.inference_mode()
def validate(model, batches):
    return sum(model(x).mean() for x in batches)
# ---
def window_loss(model, chunks):
    loss = 0.0
    for c in chunks:
        loss = loss + model(c).mean()
    loss.backward()
    return loss.detach()
# ---
def run(model, batches, opt):
    total = 0.0
    for x in batches:
        loss = model(x).mean()
        loss.backward()
        opt.step()
        total += loss.item()
    return total
# ---
def evaluate(model, batches):
    with open("log") as f, torch.no_grad():
        return [model(x) for x in batches]
# ---
import contextlib
def sample(model, x):
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        return model(x)
# ---
class Lit(LightningModule):
    def validation_step(self, batch, i):
        return self.model(batch)
# ---
def _score(model, x):
    return model(x)
@torch.no_grad()
def evaluate(model, batches):
    return [_score(model, x) for x in batches]
# ---
def run(model, batches, opt):
    total = 0.0
    for x in batches:
        loss = model(x).mean()
        loss.backward(retain_graph=True)
        penalty = model(x).pow(2).sum()
        penalty.backward()
        with torch.no_grad():
            total += loss
    both = 0.0
    for x in batches:
        part = model(x).mean()
        both += part
    both.backward()
# ---
def generate(model, x):
    grads = torch.autograd.grad(model(x).sum(), x)
    return grads
# ---
def _probe(model, x):
    return model(x)
HOOKS = [_probe]
class Pipe(Pipeline):
    def _forward(self, x):
        return self.infer_rows(x)
    def infer_rows(self, x):
        return self.model(x)
    def validation_pass(self, batch, batch_idx):
        return self.model(batch)
# ---
def sample_loop(model, x):
    def halves(*args, **kwargs):
        return model(*args, **kwargs).chunk(2)
    return halves(x)
class Flow(Estimator):
    def sample(self, condition):
        return self.net(condition).rsample()
def sample_with(policy, x):
    dist = policy(x)
    return dist.rsample(), dist.log_prob(x)
def update(self, gap):
    loss = -gap
    loss.backward(retain_graph=True)
# ---
def infer(model, *args, **kwargs):
    return model(*args, **kwargs)
def predict(text, decoder=decode_words):
    return decoder(text)
def validate(self, network, x):
    with eval_mode(network):
        return network(x)
"""
    INVALID = """
from acme.probes import register_kernel, register_probe
from hecate_core.differentiation import no_autodiff
@register_probe("norms")
def norms(state):  # <-
    return state.memory.norm()
@register_kernel("decay")
@no_autodiff
def decay(state):
    return state
def spread(state):
    return state.memory.std()
register_probe("spread", spread)  # <-
# ---
def validate(model, batches, loss_fn):
    total = 0.0
    for x, y in batches:
        total += loss_fn(model(x), y).item()  # <-
    return total
# ---
def run(model, batches, opt):
    history = []
    for x in batches:
        loss = model(x).mean()
        loss.backward()
        opt.step()
        history.append(loss)  # <-
# ---
def run(model, batches, opt):
    total = 0.0
    for x in batches:
        loss = model(x).mean()
        loss.backward()
        opt.step()
        total += loss  # <-
    return total
# ---
class Runner:
    def fit(self, batches):
        for x in batches:
            loss = self.model(x).mean()
            loss.backward()
            self.last_loss = loss  # <-
    def evaluate(self, batches):
        return [self.model(x) for x in batches]  # <-
# ---
def step(model, x):
    loss = model(x).mean()
    loss.backward(retain_graph=True)  # <-
# ---
def sample(model, prompt):
    ids = prompt
    for _ in range(8):
        ids = torch.cat([ids, model(ids).argmax(-1)])  # <-
    return ids
# ---
def adapt(w, xs):
    with torch.enable_grad():  # <-
        for x in xs:
            g = torch.autograd.grad((w * x).sum(), w)[0]
            w = w - 0.1 * g
    return w
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        yield from self._evaluations(file)
        yield from self._accumulators(file)
        yield from self._inner_loops(file)
        yield from self._kept_graphs(file)
        yield from self._unmarked(file)

    def _evaluations(self, file: File) -> Iterator[Hit]:
        """(a) a model that runs in a function which evaluates, under no switch at all."""
        for function in file.index.functions if file.uses_torch else ():
            if is_hook(function) or not EVALUATION & set(split_words(function.name)):
                continue
            if differentiates(function) or switched_off(file, function) or is_forward_path(file, function):
                continue
            call = next(
                (n for n in walk(function) if isinstance(n, ast.Call) and runs_model(n) and not passes_on(function, n)),
                None,
            )
            if call is not None and not callers_off(file, function):
                sure = "likely" if is_handed_a_model(function, call) and is_entry(file, function) else "possible"
                sure = sure if measures(function) else "possible"
                message = f"`{function.name}` runs `{ast.unparse(call.func)}` and records its graph"
                yield Hit(call, message, sure, fixable=False)

    def _accumulators(self, file: File) -> Iterator[Hit]:
        """(b) a name that is differentiated and also kept."""
        for function in file.index.functions:
            losses = {name for n in own_nodes(function) if (name := differentiated(n))}
            for load in own_nodes(function) if losses else ():
                if isinstance(load, ast.Name) and load.id in losses and isinstance(load.ctx, ast.Load):
                    kept = _kept(load)
                    if kept and kept not in losses and not _is_plain(function, load) and not under_no_grad(file, load):
                        if not _used_for_gradient(function, kept):
                            severity = "error" if any(isinstance(a, LOOPS) for a in ancestors(load)) else None
                            message = f"`{load.id}` is kept in `{kept}` with its graph"
                            yield Hit(load, message, "likely", severity, mend=f"keep {load.id}.detach()")

    def _inner_loops(self, file: File) -> Iterator[Hit]:
        """(d) enable_grad around a loop of inner gradients, nothing detached."""
        for call in file.names.calls("torch.enable_grad", "torch.set_grad_enabled"):
            item = parent(call)
            block = parent(item) if isinstance(item, ast.withitem) else None
            function = function_of(call)
            if not isinstance(block, (ast.With, ast.AsyncWith)) or function is None:
                continue
            if "set_grad_enabled" in ast.unparse(call.func) and not (call.args and constant(call.args[0]) is True):
                continue
            if not any(isinstance(n, LOOPS) and differentiates(n) for n in walk(block)):
                continue
            detached = any(
                isinstance(n, ast.Attribute) and n.attr in ("detach", "detach_", "item", "data") for n in walk(function)
            )
            second = any(isinstance(n, ast.keyword) and n.arg == "create_graph" for n in walk(function))
            made = {n.id for n in walk(block) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            given = {
                n.id
                for r in own_nodes(function)
                if isinstance(r, ast.Return)
                for n in walk(r)
                if isinstance(n, ast.Name)
            }
            if not detached and not second and made & given:
                yield Hit(call, "an inner loop under enable_grad hands on its graph", "likely", fixable=False)

    def _unmarked(self, file: File) -> Iterator[Hit]:
        """(c) in a Hecate package, a function registered as inner loop, kernel or probe that says nothing."""
        homes = {(node.module or "").split(".")[0] for node in file.index.all(ast.ImportFrom)}
        if file.index.all(ast.alias) and not any(home.startswith("hecate_") for home in homes):
            return
        for function in file.index.functions:
            words = {_meant(file, decorator) for decorator in function.decorator_list}
            if words & _REGISTERS and not words & _MARKS:
                message = f"`{function.name}` is registered and does not say whether it is differentiated"
                yield Hit(function, message, "certain", "error", mend=_MARK_IT, fixable=False)
        for call in file.index.all(ast.Call):
            given = call.args[-1] if call.args and _meant(file, call) in _REGISTERS else None
            target = file.functions.get(given.id) if isinstance(given, ast.Name) else None
            if target is not None and not _MARKS & {_meant(file, decorator) for decorator in target.decorator_list}:
                message = f"`{target.name}` is registered here and does not say whether it is differentiated"
                yield Hit(call, message, "certain", "error", mend=_MARK_IT, fixable=False)

    def _kept_graphs(self, file: File) -> Iterator[Hit]:
        """(e) retain_graph=True where nothing in the function differentiates again."""
        for keyword in file.index.all(ast.keyword):
            call, function = parent(keyword), function_of(keyword)
            if keyword.arg != "retain_graph" or constant(keyword.value) is not True or function is None:
                continue
            if not (isinstance(call, ast.Call) and differentiates(call)):
                continue
            total = sum(isinstance(n, ast.Call) and is_gradient(n) for n in walk(function))
            if (
                total == 1
                and not any(isinstance(at, LOOPS) for at in ancestors(call))
                and not yields_graph(function, call)
            ):
                yield Hit(
                    keyword, "`retain_graph=True`, and nothing here differentiates again", "likely", fixable=False
                )

    def pattern(self, m: Any, hit: Hit) -> Any:
        if isinstance(hit.node, ast.Call):
            return call_of(m, hit.node)
        if isinstance(hit.node, ast.Name):
            return m.Name(hit.node.id)
        if isinstance(hit.node, ast.keyword):
            return switched_on(m, ("retain_graph",))
        return m.FunctionDef(name=m.Name(getattr(hit.node, "name", "")))

    def fix(self, node: Any, hit: Hit) -> Any:
        return f"{node.value}.detach()" if isinstance(hit.node, ast.Name) else None


def _kept(load: ast.Name) -> str:
    """The accumulator that a bare name is added, appended or stored to; empty when it is not."""
    above = parent(load)
    if isinstance(above, ast.AugAssign) and above.value is load and isinstance(above.op, ast.Add):
        return ast.unparse(above.target)
    if isinstance(above, ast.Call) and load in above.args and isinstance(above.func, ast.Attribute):
        return ast.unparse(above.func.value) if above.func.attr == "append" else ""
    if isinstance(above, ast.Assign) and above.value is load and len(above.targets) == 1:
        target = above.targets[0]
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            return ast.unparse(target)
        in_loop = any(isinstance(at, LOOPS) for at in ancestors(above))
        return ast.unparse(target.value) if isinstance(target, ast.Subscript) and in_loop else ""
    return ""


def _is_plain(function: Function, load: ast.Name) -> bool:
    """Whether the name was made a number, or detached, before this read."""
    for node in own_nodes(function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == load.id for t in node.targets):
            words = {n.attr for n in walk(node.value) if isinstance(n, ast.Attribute)}
            if words & _SCALARS or (isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "float"):
                return True
    return False


def _used_for_gradient(function: Function, kept: str) -> bool:
    """Whether the accumulator is itself differentiated, or only its latest use is within the step."""
    for node in walk(function):
        if isinstance(node, ast.Call) and is_gradient(node) and kept in ast.unparse(node):
            return True
    word = kept.split(".")[-1].split("[")[0]
    return word.startswith(("grad", "window"))


def _meant(file: File, node: ast.expr) -> str:
    """The last word of what a decorator or call means, under whatever name it was imported."""
    func = node.func if isinstance(node, ast.Call) else node
    return (file.names.resolve(func) or last_word(func)).rsplit(".", 1)[-1]
