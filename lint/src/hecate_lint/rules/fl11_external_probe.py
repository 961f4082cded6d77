"""FL-11: a library that asks command-line tools about its machine."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, is_main_guard
from hecate_lint.index import function_of, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_RUNNERS = (
    "subprocess.run",
    "subprocess.check_output",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.getoutput",
    "os.system",
    "os.popen",
)
_TOOLS = frozenset("nvidia-smi rocm-smi lspci lscpu git nvcc ldconfig uname hostname which dmidecode".split())


class ExternalProbe(Rule):
    """Library code runs a machine tool and reads its output.

    SMELL. `subprocess.run(["nvidia-smi", ...])`, `os.popen("git rev-parse HEAD")` in code that runs inside
    other programs.

    WHY. The tool is missing in containers, prints another format next year and blocks where no process may be
    started.

    FIX. Ask the library that knows: `torch.cuda.get_device_name`, `importlib.metadata`, NVML.

    TRACE. Fail-loud rule FL-11.
    """

    id = "FL-11"
    name = "external-probe"
    group = "fail-loud"
    severity = "warn"
    words = frozenset({"subprocess", "os", "run", "check_output", "Popen", "popen", "system", "getoutput"})
    why = "the tool is missing in containers and prints another format next year"
    mend = "ask torch, importlib.metadata or NVML instead"

    VALID = """
def gpu_name(i):
    return torch.cuda.get_device_name(i)
# ---
sha = importlib.metadata.version("pkg")
# ---
subprocess.run(["make", "all"], check=True)
# ---
def main():
    subprocess.run(["git", "status"])
if __name__ == "__main__":
    main()
# ---
def run(tool):
    return subprocess.run([tool])
"""
    INVALID = """
def gpu_name():
    return subprocess.run(["lspci"], capture_output=True).stdout  # <-
# ---
sha = os.popen("git rev-parse HEAD").read()  # <-
# ---
from subprocess import check_output as ask
def memory():
    return int(ask(["nvidia-smi", "--query-gpu=memory.used"]))  # <-
# ---
def revision(root):
    cmd = ["git", "-C", root, "rev-parse", "HEAD"]
    return subprocess.check_output(cmd).decode()  # <-
# ---
import subprocess as sp
def nvcc():
    return sp.getoutput("nvcc --version")  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test or file.is_script:
            return
        for call in file.names.calls(*_RUNNERS):
            tool = _tool(file, call)
            if tool in _TOOLS and not is_main_guard(call):
                yield Hit(call, f"`{tool}` is run to learn about the machine", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(func=m.Name() | m.Attribute())


def _tool(file: File, call: ast.Call) -> str:
    """The program that a call runs, as far as it is written out."""
    if not call.args:
        return ""
    first: ast.AST = call.args[0]
    if isinstance(first, ast.Name):
        function = function_of(call)
        for node in walk(function) if function is not None else walk(file.tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == first.id
            ):
                first = node.value
                break
    if isinstance(first, (ast.List, ast.Tuple)) and first.elts:
        first = first.elts[0]
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.split():
        return first.value.split()[0].rsplit("/", 1)[-1]
    return ""
