"""CS-41: how busy a device is, reported as if it were speed."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments
from hecate_lint.index import ancestors, parent
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, scope_nodes

_KEY = Pattern(r"(gpu|sm|cuda|device)[ _./-]?(util|busy)|^util(isation|ization)?$", re.I)
_RATE = Pattern(
    r"(tok|sample|seq|image|item|step|it|example|char|byte|frame)\w*[ _/]*(/|per|_p)[ _]*s|throughput|tps|mfu|hfu|wps",
    re.I,
)
_SINK = frozenset(
    "add_scalar log log_metrics log_dict record update print info write set_postfix append gauge put".split()
)


class UtilisationAsThroughput(Rule):
    """Device busy time stands in a result where a rate belongs.

    SMELL. `gpu_util`, `sm_util` or `torch.cuda.utilization()` reaches a metrics dict, a logger or a report, and
    no token or sample rate stands beside it.

    WHY. A device that waits in a slow kernel is as busy as one that computes: the number rises when code gets
    worse.

    FIX. Record tokens per second per device; keep utilisation in monitors.

    TRACE. Catalogue smell CS-41; the report schema requires rates.
    """

    id = "CS-41"
    name = "utilisation-as-throughput"
    group = "core"
    severity = "warn"
    why = "a device can be fully busy and slow: utilisation says nothing about tokens per second"
    mend = "record tokens per second per device beside it, or leave it to a monitor"

    VALID = """
def report(h, tokens, seconds, world):
    util = pynvml.nvmlDeviceGetUtilizationRates(h).gpu
    return {"gpu_util": util, "tokens_per_s_per_gpu": tokens / seconds / world}
# ---
engine = Engine(model, gpu_memory_utilization=0.9)
# ---
def memory_report(h):
    return {"gpu_memory_util": pynvml.nvmlDeviceGetUtilizationRates(h).memory}
# ---
def routing(load):
    return {"expert_utilization": load.mean(), "codebook_util": load.max()}
# ---
def monitor_devices():
    print(f"gpu_util {torch.cuda.utilization()}")
# ---
subprocess.run(["nvidia-smi"], check=True)
"""
    INVALID = """
def report(h):
    util = pynvml.nvmlDeviceGetUtilizationRates(h).gpu
    return {"result/gpu_util": util}  # <-
# ---
def log_step(writer, step):
    writer.add_scalar("perf/gpu_utilization", torch.cuda.utilization(), step)  # <-
# ---
def summary(run):
    metrics = {}
    metrics["sm_util"] = run.util  # <-
    return metrics
# ---
def show(rate):
    busy = torch.cuda.utilization()
    print(f"gpu_util {busy}%")  # <-
# ---
logger.log({"loss": loss, "gpu_busy": busy})  # <-
# ---
@dataclass
class Result:
    loss: float
    gpu_utilization: float  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if "util" not in file.source.text and "busy" not in file.source.text:
            return
        for node in file.index.all(ast.Constant):
            if isinstance(node.value, str) and len(node.value) < 120 and _is_busy(node.value):
                hit = self._sink(file, node)
                if hit is not None and not _has_rate(node) and not _is_monitor(node):
                    yield hit
        for field in file.index.all(ast.AnnAssign):
            if (
                isinstance(field.target, ast.Name)
                and isinstance(parent(field), ast.ClassDef)
                and _is_busy(field.target.id)
            ):
                owner = parent(field)
                if isinstance(owner, ast.ClassDef) and re.search(r"Result|Report|Metric|Bench", owner.name):
                    names = [
                        n.target.id
                        for n in owner.body
                        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                    ]
                    if not any(_RATE.search(name) for name in names):
                        yield Hit(field, f"`{field.target.id}` is a result and no rate stands beside it", "likely")

    def _sink(self, file: File, node: ast.Constant) -> Hit | None:
        """The reported node: the dict, call or assignment that publishes the value under this key."""
        above = parent(node)
        message = f'"{str(node.value).strip()}" is published as a result and no rate stands beside it'
        if isinstance(above, ast.Dict) and node in above.keys:
            return Hit(node, message, "likely")
        if isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Store):
            return Hit(node, message, "likely")
        for at in ancestors(node):
            if isinstance(at, ast.Call) and last_word(at) in _SINK:
                is_key = node in at.args[:1] or any(isinstance(a, ast.JoinedStr) for a in at.args)
                return Hit(node if isinstance(above, ast.Call) else at, message, "likely") if is_key else None
            if isinstance(at, ast.stmt):
                return None
        return None

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.SimpleString() | m.Call() | m.AnnAssign() | m.FormattedString()


def _is_busy(text: str) -> bool:
    if re.search(r"mem|expert|codebook|cpu|budget|cache|query", text, re.I):
        return False
    last = text.rsplit("/", 1)[-1]
    return bool(_KEY.search(last)) and not re.search(r"[.:]\s|\n|usage:|--", text)


def _has_rate(node: ast.AST) -> bool:
    for at in scope_nodes(node):
        if isinstance(at, ast.Constant) and isinstance(at.value, str) and _RATE.search(at.value):
            return True
        if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Store) and _RATE.search(at.id):
            return True
        if isinstance(at, ast.Call) and any(_RATE.search(key) for key in arguments(at)):
            return True
    return False


def _is_monitor(node: ast.AST) -> bool:
    """Code whose purpose is device state: named so, or a query for memory and temperature too."""
    for at in ancestors(node):
        name = getattr(at, "name", "")
        if isinstance(at, (ast.FunctionDef, ast.ClassDef)) and re.search(
            r"monitor|device|nvidia|smi|status|hardware|stats?$", name, re.I
        ):
            return True
    near = [c.value for c in scope_nodes(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
    return any(re.search(r"temperature|power\.draw|fan|query-gpu|clocks", text, re.I) for text in near)
