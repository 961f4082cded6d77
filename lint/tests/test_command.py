"""The command line: exit statuses, formats, settings, baseline, fixes, standard input, order and cache."""

import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hecate_lint.cli import main
from hecate_lint.registry import built_in

BAD = "def write(memory):\n    memory.mul_(0.5)\n    return memory\n"
WARNS = "model.gradient_checkpointing_enable()\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.hecate.lint]\n")
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "good.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.hecate.lint]\n{text}\n")


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    main(["--format", "json", *arguments])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "hecate-lint/1"
    records: list[dict[str, Any]] = document["findings"]
    return records


def test_exit_status_is_0_clean_1_findings_2_wrong_use(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["good.py"]) == 0
    assert main(["bad.py"]) == 1
    (project / "warns.py").write_text(WARNS)
    assert main(["warns.py"]) == 0
    assert main(["--strict", "warns.py"]) == 1
    for wrong in (["gone.py"], ["--format", "xml"], ["--select", "CS-99"], ["--explain", "nothing"], ["--jobs", "-1"]):
        assert main(wrong) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1, captured.err


def test_fault_of_ours_is_70_with_a_traceback_in_a_file(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = next(rule for rule in built_in() if rule.id == "CS-42")

    def broken(self: object, file: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(type(rule), "nominate", broken)
    (project / "warns.py").write_text(WARNS)
    assert main(["--no-cache", "."]) == 70
    captured = capsys.readouterr()
    assert "bad.py:2:5: error CS-47" in captured.out, "the other rules go on"
    assert captured.out.count("HL-12") == 1
    path = re.search(r"traceback is in (\S+)", captured.err)
    assert path is not None
    assert "planted" in Path(path[1]).read_text()


def test_text_shows_line_caret_why_and_mend(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bad.py"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bad.py:2:5: error CS-47 in-place-on-shared-state: `mul_` writes into `memory`")
    assert lines[1] == "    2 |     memory.mul_(0.5)"
    assert lines[2] == "      |     ^^^^^^^^^^^^^^^^"
    assert lines[3].startswith("    why:  ")
    assert lines[4].startswith("    mend: ")
    assert lines[-1] == "hecate lint: 1 error in 1 file; 1 fixable"


def test_json_has_the_promised_fields(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = found(capsys, "bad.py")[0]
    promised = {"path", "line", "column", "end_line", "rule", "name", "severity", "confidence", "message", "fixable"}
    assert promised <= set(record)
    assert (record["path"], record["line"], record["column"], record["rule"]) == ("bad.py", 2, 5, "CS-47")


def test_github_form_escapes_and_keeps_columns_to_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "odd,name%.py").write_text("y = checkpoint(f,\n    x)\n" + BAD)
    main(["--format", "github", "odd,name%.py"])
    for line in capsys.readouterr().out.splitlines():
        match = re.fullmatch(r"::(error|warning|notice) ((?:\w+=[^,:\r\n]*,?)+)::(.+)", line)
        assert match is not None, line
        values = dict(item.split("=", 1) for item in match[2].split(","))
        assert values["file"] == "odd%2Cname%25.py"
        assert ("col" in values) == (values["line"] == values["endLine"])


def test_sarif_is_complete_and_matches_its_schema(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "broken.py").write_text("x = (\n")
    main(["--format", "sarif", "."])
    log = json.loads(capsys.readouterr().out)
    check_sarif(log)
    run = log["runs"][0]
    assert {result["ruleId"] for result in run["results"]} == {"CS-47", "HL-10"}
    listed = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert listed[result["ruleIndex"]]["id"] == result["ruleId"]


def check_sarif(log: dict[str, Any]) -> None:
    """What the SARIF 2.1.0 schema demands of the parts that are written here, and that nothing else is there."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent / "sarif-2.1.0-subset.json").read_text())
    jsonschema.Draft7Validator(schema).validate(log)


def test_unknown_keys_wrong_types_and_missing_reasons_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        'selct = ["CS"]': 'unknown key "selct" in tool.hecate.lint; did you mean "select"?',
        'select = "CS"': "select = 'CS'; expected a list of strings",
        'confidence = "sure"': "expected one of certain, likely, possible",
        "time-limit-s = -1": "expected seconds above 0",
        'per-path = [{paths = ["a"], ignore = ["CS-47"]}]': "no reason",
        'per-path = [{paths = ["a"], ignore = ["CS-97"], reason = "r"}]': 'unknown rule "CS-97"',
        'severity = {CS-47 = "fatal"}': "expected one of error, warn, info",
        "select = [": "not valid TOML",
    }
    for text, said in wrong.items():
        settings(project, text)
        assert main(["."]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_settings_select_ignore_grade_and_excuse_paths(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(project, 'ignore = ["CS-47"]')
    assert found(capsys, ".") == []
    settings(project, 'select = ["torch"]')
    assert found(capsys, ".") == []
    settings(project, 'severity = {CS-47 = "info"}')
    assert [record["severity"] for record in found(capsys, ".")] == ["info"]
    settings(project, 'per-path = [{paths = ["bad*"], ignore = ["in-place-on-shared-state"], reason = "on purpose"}]')
    assert found(capsys, ".") == []
    settings(project, 'exclude = ["bad.py"]')
    assert found(capsys, ".") == []
    assert main(["--show-settings"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["exclude"] == ["bad.py"]


def test_cited_papers_must_stand_in_the_bibliography(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "rule.py").write_text(
        'def step(m, g):\n    """One step. Source: [2501.00663] Eq. 10."""\n    return m - g\n'
    )
    settings(project, 'select = ["KN-07"]')
    assert found(capsys, "rule.py") == []
    settings(project, 'select = ["KN-07"]\nbibliography = "papers.md"')
    assert main(["rule.py"]) == 2
    assert 'bibliography = "papers.md": no such file' in capsys.readouterr().err
    (project / "papers.md").write_text("* 2412.06464, gated delta rule\n")
    assert [record["message"] for record in found(capsys, "rule.py")] == [
        "`step` cites 2501.00663, which the bibliography does not list"
    ]
    (project / "papers.md").write_text("* 2412.06464\n* 2501.00663\n")
    assert found(capsys, "rule.py") == []


def test_suppressions_need_a_reason_a_known_rule_and_a_finding(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rules(line: str, before: str = "") -> list[str]:
        (project / "bad.py").write_text(before + BAD.replace("(0.5)", f"(0.5)  {line}"))
        return [record["rule"] for record in found(capsys, "bad.py")]

    assert rules("# hecate: allow CS-47 -- the caller gave it away") == []
    assert rules("# hecate: allow in-place-on-shared-state -- by name") == []
    assert rules("# noqa  # hecate: allow CS-47, CS-42 -- two") == ["HL-03"]
    assert rules("# hecate: allow CS-47") == ["CS-47", "HL-01"]
    assert rules("# hecate: allow CS-77 -- unknown") == ["CS-47", "HL-02"]
    assert rules("# hecate: disable=CS-47") == ["CS-47", "HL-04"]
    assert rules("", "# hecate: allow-file CS-47 -- all of it\n") == []
    assert rules("", "\n" * 30 + "# hecate: allow-file CS-47 -- too late\n") == ["HL-04", "CS-47"]
    assert rules("", "x = '# hecate: allow-file CS-47 -- a string'\n") == ["CS-47"]
    (project / "bad.py").write_text(BAD.replace("memory):", "memory):  # hecate: allow CS-47 -- whole body"))
    assert found(capsys, "bad.py") == []


def test_unused_suppression_is_reported_only_when_its_rule_ran(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "good.py").write_text("x = 1  # hecate: allow CS-47 -- nothing here\n")
    assert [record["rule"] for record in found(capsys, "good.py")] == ["HL-03"]
    assert found(capsys, "--ignore", "CS-47", "good.py") == []


def test_baseline_hides_known_findings_and_only_shrinks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--baseline", "check", "."]) == 2
    assert main(["--baseline", "write", "."]) == 0
    assert main(["--baseline", "check", "."]) == 0
    (project / "bad.py").write_text("\n\n# moved\n" + BAD)
    assert main(["--baseline", "check", "."]) == 0, "line numbers are no part of the key"
    (project / "bad.py").write_text(BAD + BAD.replace("write", "other"))
    capsys.readouterr()
    assert [record["rule"] for record in found(capsys, "--baseline", "check", ".")] == ["CS-47"]
    (project / "bad.py").write_text("x = 1\n")
    assert [record["rule"] for record in found(capsys, "--baseline", "check", ".")] == ["HL-05"]


def test_fix_writes_diff_does_not(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--diff", "bad.py"]) == 1
    diff = capsys.readouterr().out
    assert "-    memory.mul_(0.5)\n+    memory = memory.mul(0.5)\n" in diff
    assert (project / "bad.py").read_text() == BAD
    assert main(["--fix", "bad.py"]) == 0
    assert (project / "bad.py").read_text() == BAD.replace("memory.mul_", "memory = memory.mul")


def test_standard_input_is_linted_under_a_name_and_never_written(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def given() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))

    given()
    assert [record["path"] for record in found(capsys, "--stdin-filename", "buffer.py")] == ["buffer.py"]
    given()
    main(["--stdin-filename", "buffer.py", "--fix"])
    assert "memory = memory.mul(0.5)" in capsys.readouterr().out
    assert not (project / "buffer.py").exists()


def test_same_bytes_in_20_orders_and_with_1_or_2_workers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for number, rule in enumerate(built_in()):
        name = f"f{number:03}.py"
        (project / name).write_text(rule.INVALID)
        names.append(name)
    outputs = set()
    draw = random.Random(3)
    for turn in range(20):
        draw.shuffle(names)
        main(["--no-cache", "--format", "sarif", "--jobs", str(1 + turn % 2), *names])
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1


def test_cache_gives_the_same_and_survives_damage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = found(capsys, ".")
    kept = list((project / ".hecate_lint_cache").glob("*.json"))
    assert len(kept) == 1
    assert found(capsys, ".") == first
    (project / "bad.py").write_text(BAD + "\n# changed\n")
    assert [record["rule"] for record in found(capsys, ".")] == ["CS-47"]
    for damage in (b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe"):
        for path in (project / ".hecate_lint_cache").glob("*.json"):
            path.write_bytes(damage)
        assert [record["rule"] for record in found(capsys, ".")] == ["CS-47"]


def test_clean_and_cached_files_import_no_libcst(project: Path) -> None:
    code = "import sys; from hecate_lint.cli import main; main({0!r}); print('libcst' in sys.modules)"
    for arguments in (["--no-cache", "good.py"], ["."]):
        command = [sys.executable, "-c", code.format(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


def test_importing_the_linter_loads_neither_torch_nor_core() -> None:
    code = "import sys, hecate_lint.cli, hecate_lint.rules as r; r.rules(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "libcst", "typer", "hecate_core"} & set(done.stdout.split())


def test_hook_passes_without_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hook = (Path(__file__).resolve().parents[2] / ".pre-commit-hooks.yaml").read_text()
    assert "id: hecate-lint" in hook
    entry = re.search(r"^\s*entry: (.+)$", hook, re.MULTILINE)
    assert entry is not None
    assert entry[1].split() == ["hecate-lint"]
    (project / "bad.py").unlink()
    (project / "good.py").unlink()
    assert main([]) == 0, "a hook is called without files where none is staged"
    assert "no findings in 0 files" in capsys.readouterr().out


def test_explain_has_a_page_for_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    for rule in built_in():
        assert main(["--explain", rule.id]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"# {rule.id} {rule.name}\n")
        assert rule.why in page
    assert main(["--explain", "HL-03"]) == 0
    assert main(["--explain", "all"]) == 0
    assert main(["--self-check"]) == 0
