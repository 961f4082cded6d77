"""Code, specs and kernels of a whole package: planted disagreements are found, an agreeing package is clean."""

import json
from pathlib import Path

import pytest

from hecate_lint.cli import main

PLUGIN = """
def hecate_components():
    return [
        ("rule", "oja", "acme.oja:oja"),
        ("rule", "fade", "acme.fade:Fade"),
        ("retention", "slow", "acme.fade:Slow"),
        ("bias", "soft", "acme.soft:Soft"),
        ("strategy", "sequential", "acme.soft:Sequential"),
        ("strategy", "chunkwise", "acme.soft:Sequential"),
    ]
"""
OJA = '''
"""Oja's rule. Spec: specs/rules/oja.md, Eq. 2."""
from acme.core import ComposedRule
from acme.soft import Soft


def oja(*, at: str = "kept", scale: float = 1.0) -> ComposedRule:
    """One step."""
    return ComposedRule("oja", bias=Soft(), at=at, scale=scale, spec="rules/oja.md")
'''
SOFT = '''
class Soft:
    """A bias."""

    gates = {"retain": Gate(0.0, 1.0), "write": Gate(0.0, 2.0)}

    def __init__(self, *, slope: float = 2.0) -> None:
        self.slope = slope


class Sequential:
    """The meaning."""

    def __init__(self, *, pair=None) -> None:
        self.pair = pair
'''
FADE = '''
class Fade:
    """A rule with a step of its own."""

    inputs = {"q": "K", "k": "K", "v": "V"}
    gates = {"retain": Gate(0.0, 1.0, init=0.9)}
    params = {"matrix": Param("H V K"), "bias": Param("H V", start=AXES)}

    def init_state(self, params, batch):
        return State(memory=State(matrix=params.matrix), surprise=params.matrix)


class Slow:
    """A retention."""

    gates = {}
    axis = "scalar"
    domain: str = "real"
    link = None

    def project(self, memory):
        return memory
'''
SPEC_FADE = """# fade

```CONTRACT
kind = "rule"
name = "fade"
component = "acme.fade:Fade"
options = {}
inputs = { q = "K", k = "K", v = "V" }
state = { "memory.matrix" = "B H V K", surprise = "B H V K" }
params = { matrix = "H V K", bias = "H V" }
[gates]
retain = { low = 0.0, high = 1.0, init = 0.9 }
```

## Equations

1. `M <- retain M`

## Worked example

```python
assert True
```
"""
SPEC_SLOW = """# slow

```CONTRACT
kind = "retention"
name = "slow"
component = "acme.fade:Slow"
options = {}
axis = "scalar"
domain = "real"
link = false
project = true
```

## Worked example

```python
assert True
```
"""
SPEC_OJA = """# oja

```CONTRACT
kind = "rule"
name = "oja"
component = "acme.oja:oja"
knobs = { bias = "soft" }
options = { at = "kept", scale = 1.0 }
strategies = { sequential = "exact", chunkwise = "approximate" }
```

## Equations

1. `M <- M + v k^T`
2. `M <- M - y y^T M`

## Worked example

```python
assert 1 + 1 == 2
```
"""
SPEC_SOFT = """# soft

```CONTRACT
kind = "bias"
name = "soft"
component = "acme.soft:Soft"
options = { slope = 2.0 }
[gates]
retain = { low = 0.0, high = 1.0 }
write = { low = 0.0, high = 2.0 }
```

## Worked example

```python
assert True
```
"""
SPEC_SEQUENTIAL = (
    SPEC_SOFT.split("options")[0]
    .replace("bias", "strategy")
    .replace("soft", "sequential")
    .replace("acme.sequential:Soft", "acme.soft:Sequential")
    + "```\n\n## Worked example\n\n```python\nassert True\n```\n"
)
FILES = {
    "pyproject.toml": "[tool.hecate.lint]\n",
    "acme/__init__.py": "",
    "acme/plugin.py": PLUGIN,
    "acme/oja.py": OJA,
    "acme/soft.py": SOFT,
    "acme/fade.py": FADE,
    "acme/specs/rules/fade.md": SPEC_FADE,
    "acme/specs/retentions/slow.md": SPEC_SLOW,
    "acme/specs/rules/oja.md": SPEC_OJA,
    "acme/specs/biases/soft.md": SPEC_SOFT,
    "acme/specs/strategies/sequential.md": SPEC_SEQUENTIAL,
    "acme/specs/strategies/chunkwise.md": SPEC_SEQUENTIAL.replace('name = "sequential"', 'name = "chunkwise"'),
    "specs/rules/oja.md": SPEC_OJA,
    "README.md": "# Acme\n\nSee `acme/oja.py` and `acme.oja.oja`.\n",
}

# name -> (file, old, new, rule that must speak, words that it must say)
FAULTS = {
    "registered without a spec": ("acme/plugin.py", '("bias", "soft"', '("bias", "hard"', "KN-02", "hard"),
    "contract is not TOML": ("acme/specs/biases/soft.md", "kind =", "kind", "KN-02", "not TOML"),
    "contract is never closed": (
        *("acme/specs/biases/soft.md", "high = 2.0 }\n```", "high = 2.0 }\n"),
        *("KN-02", "CONTRACT"),
    ),
    "component differs": ("acme/plugin.py", "acme.oja:oja", "acme.oja:oya", "KN-03", "acme.oja:oja"),
    "option only in the contract": ("acme/oja.py", ", scale: float = 1.0", "", "KN-03", '"scale" of the contract'),
    "option only in the code": (
        "acme/oja.py",
        "scale: float = 1.0",
        "scale: float = 1.0, skale: int = 3",
        "KN-03",
        "skale",
    ),
    "near miss is named": ("acme/oja.py", "scale: float = 1.0", "skale: float = 1.0", "KN-03", 'did you mean "skale"'),
    "default differs": ("acme/soft.py", "slope: float = 2.0", "slope: float = 3.0", "KN-03", "defaults to 3.0"),
    "gate only in the code": ("acme/soft.py", '"write": Gate', '"wirte": Gate', "KN-03", "wirte"),
    "gate range differs": ("acme/soft.py", "Gate(0.0, 2.0)", "Gate(0.0, 9.0)", "KN-03", "(0.0, 9.0)"),
    "gate starts elsewhere": ("acme/fade.py", "init=0.9", "init=0.5", "KN-03", "starts at 0.5, the contract says 0.9"),
    "state tensor only in the code": ("acme/fade.py", "surprise=", "momentum=", "KN-03", 'state "momentum" of rule'),
    "parameter only in the contract": ("acme/fade.py", ', "bias": Param("H V", start=AXES)', "", "KN-03", '"bias"'),
    "parameter has other axes": ("acme/fade.py", 'Param("H V K")', 'Param("V K")', "KN-03", 'axes "V K", the contract'),
    "input differs": ("acme/fade.py", '"v": "V"', '"v": "K"', "KN-03", "inputs of rule"),
    "axis differs": ("acme/fade.py", 'axis = "scalar"', 'axis = "row"', "KN-03", "axis of retention"),
    "link differs": ("acme/specs/retentions/slow.md", "link = false", "link = true", "KN-03", "link of retention"),
    "project differs": ("acme/specs/retentions/slow.md", "project = true", "project = false", "KN-03", "project of"),
    "knob differs": ("acme/specs/rules/oja.md", 'bias = "soft"', 'bias = "l2"', "KN-03", 'bias is "soft"'),
    "strategy unknown": ("acme/specs/rules/oja.md", "chunkwise =", "chunkwize =", "KN-03", "did you mean"),
    "promise unknown": ("acme/specs/rules/oja.md", '"approximate"', '"nearly"', "KN-03", "exact or approximate"),
    "no worked example": ("acme/specs/rules/oja.md", "assert 1 + 1 == 2", "pass", "KN-10", "no worked example"),
    "equation missing": ("acme/oja.py", "Eq. 2", "Eq. 7", "KN-09", "no equation 7"),
    "cited spec missing": ("acme/oja.py", "specs/rules/oja.md, Eq. 2", "specs/rules/oya.md", "KN-09", "does not exist"),
    "document names no file": ("README.md", "acme/oja.py", "acme/oya.py", "DX-05", "acme/oya.py"),
    "document names no symbol": ("README.md", "acme.oja.oja", "acme.oja.oya", "DX-05", "acme.oja.oya"),
    "result table is bare": (
        *("README.md", "# Acme", "# Acme\n\n| rule | tok/s |\n|---|---|\n| a | 10 |\n| b | 20 |\n"),
        *("DX-01", "hardware"),
    ),
    "comparison is unequal": (
        *("README.md", "# Acme", "# Acme\n\n| rule | batch | tok/s |\n|---|---|---|\n| a | 1 | 10 |\n| b | 8 | 20 |\n"),
        *("DX-02", '"batch"'),
    ),
    "lists out of step": (
        *("pyproject.toml", "[tool.hecate.lint]\n"),
        '[[tool.hecate.lint.same]]\nleft = "acme/steps.py:A"\nright = "acme/steps.py:B"\n',
        *("DX-03", "only in acme/steps.py:B: two"),
    ),
    "kernel symbol missing": ("acme/oja.cu", "oja_forward(", "oja_front(", "KN-04", "oja_forward"),
}
PAIR = 'KERNELS = KernelPair(op="oja", source=here("oja.cu"), forward="oja_forward", backward="oja_backward")\n'
CUDA = """
extern "C" __global__ void oja_forward(float* x) {}
extern "C" __global__ void __launch_bounds__(64) oja_backward(float* x) {}
"""


def make(root: Path) -> None:
    for name, text in {**FILES, "acme/steps.py": 'A = ["one"]\nB = {"one": 1, "two": 2}\n'}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "acme/pair.py").write_text(PAIR)
    (root / "acme/oja.cu").write_text(CUDA)


def said(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    main(["--no-cache", "--format", "json", "."])
    return [(record["rule"], record["message"]) for record in json.loads(capsys.readouterr().out)["findings"]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_package_that_agrees_is_clean(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == []


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_disagreement_is_found(fault: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, old, new, rule, words = FAULTS[fault]
    path = package / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if "specs/rules" in name:
        (package / "specs/rules/oja.md").write_text(path.read_text())
    found = said(capsys)
    assert any(one == rule and words in message for one, message in found), found


def test_missing_kernel_source_and_spec_path_are_found(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "acme/oja.cu").unlink()
    assert ("KN-04", "the source oja.cu is not beside this file") in said(capsys)
    make(package)
    for path in ("specs/rules/oja.md", "acme/specs/rules/oja.md"):
        (package / path).unlink()
    assert any(rule == "KN-02" and "rules/oja.md" in message for rule, message in said(capsys))


def test_suppression_and_path_settings_hold_for_the_package_too(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = package / "acme/plugin.py"
    (package / "acme/specs/biases/soft.md").unlink()
    assert [rule for rule, _ in said(capsys)] == ["KN-02"]
    path.write_text(path.read_text().replace('Soft"),', 'Soft"),  # hecate: allow KN-02 -- on trial'))
    assert said(capsys) == []
    make(package)
    (package / "acme/oja.py").write_text(OJA.replace(", scale: float = 1.0", ""))
    setting = 'per-path = [{paths = ["acme/oja.py"], ignore = ["KN-03"], reason = "in the making"}]\n'
    (package / "pyproject.toml").write_text("[tool.hecate.lint]\n" + setting)
    assert said(capsys) == []
