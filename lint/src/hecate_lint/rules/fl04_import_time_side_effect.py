"""FL-04: importing a library changes the program that imports it."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, is_main_guard
from hecate_lint.index import FUNCTIONS, ancestors, own_nodes
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_CALLS = frozenset(
    "logging.basicConfig warnings.filterwarnings warnings.simplefilter torch.manual_seed torch.cuda.manual_seed"
    " torch.cuda.manual_seed_all random.seed numpy.random.seed triton.set_allocator"
    " torch.multiprocessing.set_start_method"
    " multiprocessing.set_start_method os.environ.setdefault os.environ.update os.environ.pop os.putenv"
    " os.chdir os.makedirs"
    " os.mkdir sys.path.append sys.path.insert torch.cuda.init torch.cuda.set_device"
    " torch.distributed.init_process_group"
    " logging.disable urllib.request.urlopen requests.get socket.socket subprocess.run faulthandler.enable".split()
)
_PREFIXES = ("torch.set_", "torch.backends.", "torch.cuda.")
_READS = frozenset(
    "is_available device_count get_device_name get_device_capability current_device is_bf16_supported".split()
)


class ImportTimeSideEffect(Rule):
    """A module changes process-wide state when it is imported.

    SMELL. At module level: writes to `os.environ`, `logging.basicConfig`, `torch.set_*`, `torch.backends.* =
    ...`, seeding, warning filters, `sys.path` edits, device initialisation, `print`.

    WHY. Importing one layer then changes precision, seeds or logging of somebody else's program, and the order
    of imports becomes part of the result.

    FIX. Move it into a function that the program calls, or under `if __name__ == "__main__"`.

    TRACE. Fail-loud rule FL-04.
    """

    id = "FL-04"
    name = "import-time-side-effect"
    group = "fail-loud"
    severity = "error"
    why = "whoever imports this module gets another precision, seed or log level without asking for it"
    mend = "move it into a function that the program calls"

    VALID = """
def init():
    os.environ.setdefault("A", "1")
# ---
FLAG = os.environ.get("A", "0")
# ---
if __name__ == "__main__":
    torch.manual_seed(0)
    print("done")
# ---
logger = logging.getLogger(__name__)
HAS_CUDA = torch.cuda.is_available()
# ---
class Config:
    def apply(self):
        torch.set_num_threads(1)
# ---
import warnings
__all__ = ["f"]
REGISTRY = {}
REGISTRY["a"] = 1
"""
    INVALID = """
import os
os.environ.setdefault("A", "1")  # <-
# ---
try:
    torch.set_float32_matmul_precision("high")  # <-
except Exception:
    raise
# ---
torch.backends.cuda.matmul.allow_tf32 = True  # <-
# ---
import logging as lg
lg.basicConfig(level=lg.INFO)  # <-
# ---
if os.environ.get("FAST"):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # <-
# ---
print("loading the library")  # <-
# ---
import sys
sys.path.insert(0, "..")  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test or file.is_script:
            return
        for node in own_nodes(file.tree):
            if any(isinstance(at, (*FUNCTIONS, ast.Lambda)) for at in ancestors(node)) or is_main_guard(node):
                continue
            if isinstance(node, ast.Call):
                called = file.names.callee(node) or ""
                if called in _CALLS or (
                    called == "builtins.print" and isinstance(getattr(node, "_parent", None), ast.Expr)
                ):
                    yield Hit(node, f"importing this module calls `{called.removeprefix('builtins.')}`")
                elif called.startswith(_PREFIXES) and last_word(node) not in _READS and _is_statement(node):
                    yield Hit(node, f"importing this module calls `{called}`")
            elif isinstance(node, (ast.Assign, ast.AugAssign)):
                yield from self._assigned(file, node)

    def _assigned(self, file: File, node: ast.Assign | ast.AugAssign) -> Iterator[Hit]:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Subscript) and file.names.resolve(target.value) == "os.environ":
                yield Hit(node, "importing this module writes `os.environ`")
            elif isinstance(target, ast.Attribute):
                dotted = file.names.resolve(target) or ""
                if dotted.startswith("torch.backends.") or dotted == "sys.path":
                    yield Hit(node, f"importing this module sets `{dotted}`")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.Assign() | m.AugAssign()


def _is_statement(call: ast.Call) -> bool:
    return isinstance(getattr(call, "_parent", None), ast.Expr)
