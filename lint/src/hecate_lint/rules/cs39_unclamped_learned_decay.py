"""CS-39: a learned retention that nothing keeps inside its range."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.bounds import Product, Range, products
from hecate_lint.carried import carrier, comes_back
from hecate_lint.confirming import call_of
from hecate_lint.facts import File, arguments, constant, split_words
from hecate_lint.index import parent
from hecate_lint.learnable import parameter_in
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.vocabulary import RAW, RETENTION, RETENTION_WEAK


class UnclampedLearnedDecay(Rule):
    """A learned factor multiplies carried state without a bound.

    SMELL. An `nn.Parameter` that acts as retention, decay, forgetting or momentum reaches `p * S`, `(1 - p) *
    S`, a lerp or a power of itself, where S is carried between steps, and passes no sigmoid, clamp,
    `exp(-softplus)` or the like on the way. Names alone decide nothing: most learned decays are bounded
    somewhere.

    WHY. One optimizer step beyond 1 and the state grows without limit over the sequence; below 0 it flips sign
    each token. Short training contexts hide both.

    FIX. Keep the raw value free and bound the used one: `torch.sigmoid(self.decay_logit)`, starting from
    `logit(initial)`. Reported as a warning where only one side is bounded.

    TRACE. Catalogue smell CS-39; runtime guard: effective retention stays in its interval.
    """

    id = "CS-39"
    name = "unclamped-learned-decay"
    group = "core"
    severity = "error"
    words = frozenset({"Parameter", "ParameterList", "ParameterDict", "register_parameter"})
    why = "one optimizer step outside [0, 1] and the carried state grows or flips sign with every token"
    mend = "read it through torch.sigmoid and start the raw value at logit(initial)"

    VALID = """
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay_logit = nn.Parameter(torch.tensor(4.6))
    def forward(self, s, u):
        return self.decay_logit.float().sigmoid() * s + u
# ---
class M(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.A_log = nn.Parameter(torch.zeros(h))
    def forward(self, s, dt, u):
        return torch.exp(-dt * torch.exp(self.A_log)) * s + u
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.9))
    def forward(self, state, u):
        self.decay.data.clamp_(0.0, 1.0)
        return self.decay * state + u
# ---
class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(d))
        self.beta = nn.Parameter(torch.zeros(d))
    def forward(self, x):
        return self.gamma * x + self.beta
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.0))
    @property
    def retain(self):
        return 1 - torch.sigmoid(self.alpha)
    def step(self, memory, u):
        return self.retain * memory + u
# ---
class Stream(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.resid_lambda = nn.Parameter(torch.ones(n))
        self.layers = nn.ModuleList(Block() for _ in range(n))
    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = self.resid_lambda[i] * x + layer(x)
        return x
# ---
def bounded(p):
    return torch.clamp(p, 0.0, 0.999)
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.9))
        self.fixed_decay = nn.Parameter(torch.tensor(0.9), requires_grad=False)
    def forward(self, state, u):
        d = bounded(self.decay)
        return d * state + self.fixed_decay * state + u
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.9))
        torch.nn.utils.parametrize.register_parametrization(self, "decay", Unit())
    def forward(self, state, u):
        return self.decay * state + u
# ---
class LayerScale(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(d))
        self.lambdas = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.beta = nn.Parameter(torch.tensor(0.5))
    def scale(self, cell):
        return cell * self.lambda1
    def forward(self, hidden_state, initial_state, cross_hidden_states):
        hidden_state = self.lambdas[0] * hidden_state + self.lambdas[1] * initial_state
        return hidden_state * (1 - self.beta) + cross_hidden_states * self.beta
# ---
class Weights(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.lambda_ = nn.Parameter(torch.zeros(d))
        self.eps = nn.Parameter(torch.tensor(0.1))
    def forward(self, items, z, rho, n):
        for _ in range(n):
            half = rho - self.slope(z)
            z = z + self.eps * half
            rho = half - self.slope(z)
        items = torch.mul(items, self.lambda_)
        return items.sum(1) + z
# ---
class Noisy(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(d))
        self.sigma = nn.Parameter(torch.ones(d))
        self.register_buffer("noise", torch.zeros(d))
    def draw(self):
        self.noise = torch.randn_like(self.noise)
    def forward(self, x):
        return x * (self.mu + self.sigma * self.noise)
"""
    INVALID = """
class Cell(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.learned_ema_beta = nn.Parameter(torch.randn(d))  # <-
    def read(self, states):
        self.cache = (states, states.mean(-1))
    def write(self, u):
        states, mean = self.cache
        self.cache = None
        decay = self.learned_ema_beta
        return decay * u + (1 - decay) * states
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.99))  # <-
    def forward(self, s, u):
        return self.decay * s + u
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        for n in ("alpha", "eta"):
            self.register_parameter(n, nn.Parameter(torch.zeros(())))  # <-
    def step(self, w, s, g):
        s = self.eta * s + g
        return (1 - self.alpha) * w + s, s
# ---
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.retention = self.make(0.9)  # <-
    def make(self, value):
        return nn.Parameter(torch.tensor(value))
class M(Base):
    def forward(self, xs, memory):
        r = self.retention.view(1, -1)
        for x in xs:
            memory = r * memory + x
        return memory
# ---
class M(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.gammas = nn.ParameterList([nn.Parameter(torch.ones(())) for _ in range(heads)])  # <-
        self.register_buffer("memory", torch.zeros(heads))
    def forward(self, u):
        self.memory = self.gammas[0] * self.memory + u
        return self.memory
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.forget = nn.Parameter(torch.tensor(0.1))  # <-
    def forward(self, state, u):
        return torch.lerp(state, u, self.forget)
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay: torch.Tensor = nn.Parameter(torch.tensor(0.1))  # <-
    def blend(self, factor, state, u):
        return factor * state + u
    def forward(self, state, u):
        return self.blend(F.softplus(self.decay), state, u)
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for cls in file.index.all(ast.ClassDef):
            for name, attribute in sorted(file.attributes(cls).items()):
                learned = [
                    (at, node) for at, value in attribute.writes if (node := parameter_in(file, value)) is not None
                ]
                if not learned or not attribute.reads:
                    continue
                if _bounded_elsewhere(file, name):
                    continue
                worst = self._worst(file, name, attribute.reads)
                if worst is not None:
                    yield self._hit(file, name, learned[0][0], learned[0][1], *worst)

    def _worst(self, file: File, name: str, reads: list[ast.Attribute]) -> tuple[Product, str, str] | None:
        """The most certain multiplicative use of carried state: product, how it is carried, confidence."""
        parts = [word.rstrip("0123456789") for word in split_words(name)]
        strong = any(part in RETENTION or part.rstrip("s") in RETENTION for part in parts)
        weak = any(part in RETENTION_WEAK or part.rstrip("s") in RETENTION_WEAK for part in parts)
        if any(part in RAW for part in parts):
            strong = weak = False
        best: tuple[Product, str, str] | None = None
        for read in reads:
            for product in products(file, read):
                how = carrier(file, product.other, product.node) if product.other is not None else ""
                if how in ("state", "argument") and not _recurs(product, how):
                    how = ""
                if how == "attribute" and not comes_back(product.other, product.node):
                    how = "other" if strong else ""  # noise, statistics: read here, made elsewhere
                sure = _confidence(strong, weak, how, product)
                if sure == "certain" and product.range is Range.RAW:
                    return product, how, sure
                if sure and (best is None or (sure == "certain" and best[2] != "certain")):
                    best = product, how, sure
        return best

    def _hit(self, file: File, name: str, target: ast.AST, node: ast.AST, product: Product, how: str, sure: str) -> Hit:
        place = product.node.lineno  # type: ignore[attr-defined]
        shown = {"loop": "state carried by a loop", "attribute": "state kept on self"}.get(how, "carried state")
        if product.form == "power":
            shown = "a power of itself"
        message = f"learned `{name}` multiplies {shown} (line {place}) and nothing bounds it"
        severity = None
        if product.range in (Range.POSITIVE, Range.NEGATIVE):
            message, severity = f"learned `{name}` multiplies {shown} (line {place}) with only one side bounded", "warn"
        elif product.range is Range.SIGNED:
            message, severity = f"learned `{name}` multiplies {shown} (line {place}) and can be negative (tanh)", "warn"
        at = target if isinstance(target, ast.Call) else node
        return Hit(at, message, sure, severity, fixable=False)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return call_of(m, hit.node)


def _confidence(strong: bool, weak: bool, how: str, product: Product) -> str:
    """Both signals: certain; one: likely; neither: nothing."""
    if strong:
        if how:
            return "likely" if how == "other" else "certain"
        return "likely" if product.form in ("power", "lerp") else ""
    if weak:
        if how in ("loop", "attribute", "state"):
            return "certain" if product.form != "lerp" else "likely"
        return "likely" if how == "argument" and product.form == "complement" else ""
    recurrent = isinstance(parent(product.node), ast.BinOp) and product.form in ("times", "complement")
    return "likely" if how in ("loop", "attribute") and recurrent and product.range is Range.RAW else ""


def _recurs(product: Product, how: str) -> bool:
    """Whether something is added to the product, or state gets it as its value.

    A layer scale is returned as it is; a weight of something that is no state by name is only assigned.
    """
    if product.form in ("power", "lerp"):
        return True
    above = parent(product.node)
    while isinstance(above, ast.expr) and not isinstance(above, (ast.Call, ast.BinOp)):
        above = parent(above)
    if isinstance(above, ast.Call):
        word = above.func.attr if isinstance(above.func, ast.Attribute) else getattr(above.func, "id", "")
        return word in ("add", "add_", "addcmul", "addcmul_")
    if isinstance(above, ast.BinOp):
        return isinstance(above.op, (ast.Add, ast.Sub))
    return how == "state" and isinstance(above, (ast.Assign, ast.AnnAssign, ast.AugAssign))


def _bounded_elsewhere(file: File, name: str) -> bool:
    """A projection (`self.p.data.clamp_`), a parametrization or a switched-off gradient, anywhere in the file."""
    for node in file.index.word(name):
        at: ast.AST = node
        above = parent(at)
        while isinstance(above, ast.Attribute) and above.attr in (
            "data",
            "detach",
            "clamp_",
            "clip_",
            "requires_grad_",
        ):
            at, above = above, parent(above)
        if isinstance(at, ast.Attribute) and at.attr in ("clamp_", "clip_"):
            return True
        if isinstance(at, ast.Attribute) and at.attr == "requires_grad_" and isinstance(above, ast.Call):
            if above.args and constant(above.args[0]) is False:
                return True
        if isinstance(above, ast.Attribute) and above.attr == "requires_grad" and isinstance(above.ctx, ast.Store):
            return True
    for call in file.names.calls("torch.nn.utils.parametrize.register_parametrization"):
        second = call.args[1] if len(call.args) > 1 else arguments(call).get("tensor_name")
        if constant(second) == name:
            return True
    return False
