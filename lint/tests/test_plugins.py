"""Rules of other distributions: found by entry point, isolated when broken, refused when their id is taken."""

import os
import subprocess
import sys
from pathlib import Path

GOOD = '''
from hecate_lint.model import Hit
from hecate_lint.rule import Rule


class NoPrint(Rule):
    """Library code prints."""

    id = "ACME-1"
    name = "no-print"
    group = "fail-loud"
    severity = "error"
    words = frozenset({"print"})
    why = "whoever imports the library gets its output"
    mend = "use a logger"

    def nominate(self, file):
        for call in file.names.calls("builtins.print"):
            yield Hit(call, "library code prints")

    def pattern(self, m, hit):
        return m.Call(func=m.Name("print"))
'''
MODULES = {
    "acme_good": GOOD,
    "acme_raises": "raise RuntimeError('at import')\n",
    "acme_exits": "import sys\nsys.exit(3)\n",
    "acme_syntax": "x = (\n",
    "acme_missing": "import acme_cuda_that_is_not_there\n",
    "acme_taken": GOOD.replace("ACME-1", "CS-47"),
    "acme_severity": GOOD.replace('"error"', '"fatal"').replace("ACME-1", "ACME-2"),
    "acme_raiser": GOOD.replace("ACME-1", "ACME-3")
    .replace("no-print", "raiser")
    .replace("for call in", "raise ValueError('planted')\n        for call in"),
}


def run(tmp_path: Path, *modules: str) -> subprocess.CompletedProcess[str]:
    site = tmp_path / "site"
    for module in modules:
        meta = site / f"{module}-1.0.dist-info"
        meta.mkdir(parents=True)
        (site / f"{module}.py").write_text(MODULES[module])
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (meta / "entry_points.txt").write_text(f"[hecate.lint_rules]\n{module} = {module}:NoPrint\n")
    (tmp_path / "code.py").write_text("print(1)\nmodel.gradient_checkpointing_enable()\n")
    command = [sys.executable, "-m", "hecate_lint", "--no-cache", "--format", "github", "code.py"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_rule_of_a_stranger_is_found_and_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "acme_good")
    assert "title=ACME-1 no-print::library code prints" in done.stdout
    assert done.returncode == 1


def test_each_broken_rule_plugin_is_one_line_and_the_others_run(tmp_path: Path) -> None:
    broken = [name for name in MODULES if name not in ("acme_good", "acme_raiser")]
    done = run(tmp_path, "acme_good", *broken)
    assert done.stdout.count("HL-13") == len(broken), done.stdout
    for name in broken:
        assert sum(name in line for line in done.stdout.splitlines()) == 1
    assert "ACME-1" in done.stdout
    assert "CS-42" in done.stdout
    assert done.stderr == ""


def test_rule_of_a_stranger_that_raises_costs_one_finding_and_is_no_fault_of_ours(tmp_path: Path) -> None:
    done = run(tmp_path, "acme_raiser")
    assert done.stdout.count("HL-12") == 1
    assert "CS-42" in done.stdout
    assert done.returncode == 1
