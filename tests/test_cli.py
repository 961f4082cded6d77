"""The command line: what is imported, what is printed where, and every exit status."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from hecate_core.cli import exit_codes, main
from hecate_core.cli.live import LiveProgress
from hecate_core.cli.progress import LineProgress, clock
from hecate_core.errors import CheckpointError, DataError, DivergedError, ExitCode, InputError, PluginError

Install = Callable[..., Path]
HEAVY = {"torch", "numpy", "pydantic", "rich"}

GOOD = """
from hecate_core.hooks import hookimpl

@hookimpl
def hecate_components():
    return [("rule", "delta9", "nowhere:Rule")]
"""


def subprocess_run(*argv: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`hecate ARGV` in a process of its own; a last line on stderr names the heavy modules it imported."""
    code = (
        "import sys; from hecate_core.cli.main import run; status = run(sys.argv[1:]); "
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("argv", [["--help"], ["plugins"], ["plugins", "--json"], ["plugins", "show", "core"], []])
def test_help_and_plugins_import_nothing_heavy(argv: list[str]) -> None:
    done = subprocess_run(*argv)
    assert done.returncode == 0
    assert "HEAVY []" in done.stderr
    assert "plugins" in done.stdout or "hecate-core/core" in done.stdout


def test_broken_plugins_are_a_line_each_and_everything_else_works(site: Path, distribution: Install) -> None:
    distribution("raises", "raise RuntimeError('boom')")
    distribution("exits", "import sys; sys.exit(1)")
    distribution("taker", GOOD.replace("rule", "optimizer").replace("delta9", "adamw"))
    done = subprocess_run("plugins", path=site)
    assert done.returncode == 0
    assert "HEAVY []" in done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "broken: failed to import raises_plugin.plugin: RuntimeError: boom" in lines["raises/raises"]
    assert "broken: failed to import exits_plugin.plugin: called sys.exit(1)" in lines["exits/exits"]
    assert 'conflict: optimizer "adamw" is also provided by hecate-core/core' in lines["taker/taker"]
    assert 'write "hecate-core:adamw"' in lines["hecate-core/core"]
    assert len(lines) == len(done.stdout.splitlines()) == len(lines.keys())


def test_plugins_are_left_out_by_flag_and_by_environment(site: Path, distribution: Install) -> None:
    distribution("raises", "raise RuntimeError('boom')")
    flagged = subprocess_run("plugins", "--no-plugins", path=site)
    assert "raises/raises 1.0  disabled: by --no-plugins" in flagged.stdout
    assert "hecate-core/core" in flagged.stdout
    set_ = subprocess_run("plugins", path=site, HECATE_DISABLE_PLUGINS="raises,typo")
    assert "raises/raises 1.0  disabled: by HECATE_DISABLE_PLUGINS" in set_.stdout
    assert 'plugin "typo" is to be disabled but is not installed' in set_.stderr


@pytest.fixture
def hecate(site: Path, fresh_registry: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: exit status, stdout, stderr."""

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main.run(list(argv))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


Hecate = Callable[..., tuple[int, str, str]]


def test_json_is_one_object_with_a_schema_and_records(hecate: Hecate, distribution: Install) -> None:
    distribution("acme", GOOD)
    for argv, schema, records in [
        (["plugins"], "hecate.plugins/1", "plugins"),
        (["plugins", "show", "acme"], "hecate.plugin/1", "components"),
        (["doctor", "--no-plugins"], "hecate.findings/1", "findings"),
    ]:
        status, out, err = hecate(*argv, "--json")
        assert (status, err) == (0, "")
        document = json.loads(out)
        assert document["schema"] == schema
        assert isinstance(document[records], list)
    assert any(finding["name"] == "plugin acme/acme" for finding in document["findings"])


def test_show_names_a_plugin_or_a_component(hecate: Hecate, distribution: Install) -> None:
    distribution("acme", GOOD)
    status, out, _ = hecate("plugins", "show", "acme")
    assert (status, out) == (0, "acme/acme 1.0  ok: rule delta9\n  rule acme:delta9 = nowhere:Rule\n")
    assert hecate("plugins", "show", "acme:delta9")[1] == "  rule acme:delta9 = nowhere:Rule\n"
    assert hecate("plugins", "show", "dleta9") == (
        2,
        "",
        '"dleta9" is neither a plugin nor a component; did you mean "delta9"?\n',
    )
    assert hecate("plugins", "shwo", "acme")[0] == 2


def test_debug_shows_the_traceback_behind_a_broken_plugin(hecate: Hecate, distribution: Install) -> None:
    distribution("raises", "raise RuntimeError('boom')")
    assert "Traceback" not in hecate("plugins")[2]
    assert "raise RuntimeError('boom')" in hecate("plugins", "--debug")[2]


def test_doctor_finds_what_is_broken(hecate: Hecate, distribution: Install) -> None:
    distribution("raises", "raise RuntimeError('boom')")
    status, out, _ = hecate("doctor")
    assert status == ExitCode.FOUND
    assert re.search(r"^plugin raises/raises +wrong +1.0, broken: failed to import", out, re.MULTILINE)
    for name in ("hecate-core", "python", "torch", "device", "compiler", "nvrtc"):
        assert re.search(rf"^{name} +(ok|absent) ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["plgins"], 'hecate: no command "plgins"; did you mean "plugins"?'),
        (["plugins", "--jsn"], 'hecate plugins: no option "--jsn"; did you mean "--json"?'),
        (["--frobnicate"], 'hecate: no option "--frobnicate"; known: --help, --version'),
        (["plugins", "show"], 'hecate plugins: "show" is not understood; expected nothing, show NAME, or table'),
        (["doctor", "now"], "hecate doctor: Got unexpected extra argument(s) (now); see hecate doctor --help"),
        (["--version", "--debug=3"], 'hecate: no option "--debug'),
    ],
)
def test_a_wrong_command_line_is_one_line(argv: list[str], line: str, hecate: Hecate) -> None:
    status, out, err = hecate(*argv)
    assert (status, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_the_version(hecate: Hecate) -> None:
    assert hecate("--version") == (0, f"hecate {metadata.version('hecate-core')}\n", "")


RAISING = [
    (InputError("a\nb: wrong; right"), ExitCode.WRONG_INPUT),
    (PluginError("p"), ExitCode.PLUGIN_FAILED),
    (DataError("d"), ExitCode.UNREADABLE),
    (CheckpointError("c"), ExitCode.UNREADABLE),
    (DivergedError("n"), ExitCode.DIVERGED),
    (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    (ZeroDivisionError("ours"), ExitCode.OUR_BUG),
]


@pytest.mark.parametrize(("error", "status"), RAISING, ids=lambda value: getattr(value, "name", type(value).__name__))
def test_every_error_is_one_line_and_its_exit_status(
    error: BaseException, status: ExitCode, hecate: Hecate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(output: object) -> None:
        raise error

    monkeypatch.setitem(main.OURS, "fail", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = hecate("fail")
    assert (code, out) == (status, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    if status is ExitCode.OUR_BUG:
        written = re.search(r"the traceback is in (\S+), please", err)
        assert written is not None
        assert "ZeroDivisionError: ours" in Path(written.group(1)).read_text()
    assert "Traceback" in hecate("fail", "--debug")[2]


def test_the_value_a_command_returns_is_the_exit_status(hecate: Hecate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.OURS, "find", lambda output: ExitCode.FOUND)
    assert hecate("find")[0] == 1


def test_a_fault_is_reported_where_no_file_can_be_written(
    hecate: Hecate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(main.OURS, "fail", lambda output: 1 // 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    status, _, err = hecate("fail")
    assert status == 70
    assert "the traceback could not be written, --debug shows it" in err


def test_a_reader_who_leaves_is_no_error(site: Path, distribution: Install) -> None:
    for index in range(40):
        distribution(f"acme{index}", GOOD.replace("delta9", f"delta{index}" + "x" * 20000))
    piped = f"{sys.executable} -m hecate_core.cli plugins | head -n 1; echo ${{PIPESTATUS[0]}}"
    shell = f"export PYTHONPATH={site}:$PYTHONPATH; {piped}"
    done = subprocess.run(["bash", "-c", shell], cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


COMMAND = """
import sys
def main(argv):
    print("got", argv)
    return len(argv)
def bad(argv):
    raise ValueError("no\\n way")
def leave(argv):
    sys.exit(int(argv[0]))
thing = 3
"""


def test_commands_of_others_get_their_words_unparsed(hecate: Hecate, distribution: Install) -> None:
    package = "acme_plugin.plugin"
    names = [("audit", "main"), ("bad", "bad"), ("leave", "leave"), ("thing", "thing"), ("none", "none")]
    points = "".join(f"{name} = {package}:{function}\n" for name, function in names)
    distribution("acme", COMMAND, entry_points=f"[hecate.commands]\n{points}plugins = {package}:main\n")
    status, out, _ = hecate("audit", "--json", "--", "--help")
    assert (status, out) == (3, "got ['--json', '--', '--help']\n")
    assert hecate("leave", "4")[0] == 4
    for name, reason in [
        ("bad", "failed: ValueError: no way (acme_plugin/plugin.py:7)"),
        ("thing", "is no function; expected main(argv) -> int"),
        ("none", "failed to import acme_plugin.plugin:none: AttributeError"),
    ]:
        status, _, err = hecate(name)
        assert status == ExitCode.PLUGIN_FAILED
        assert err.startswith(f'command "{name}" of acme 1.0')
        assert reason in err
        assert err.count("\n") == 1
    assert "hecate-core/core" in hecate("plugins")[1]  # ours cannot be taken
    assert hecate("acme:plugins", "x")[:2] == (1, "got ['x']\n")


def test_a_command_is_listed_without_importing_it_and_may_be_disabled(
    hecate: Hecate, distribution: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[hecate.commands]\naudit = acme_plugin.plugin:main\n"
    distribution("acme", "raise SystemExit", entry_points=points)
    assert re.search(r"^  audit +Command of acme 1.0.$", hecate("--help")[1], re.MULTILINE)
    assert "acme_plugin.plugin" not in sys.modules
    status, _, err = hecate("audit")
    assert (status, err.count("\n")) == (ExitCode.PLUGIN_FAILED, 1)
    monkeypatch.setenv("HECATE_DISABLE_PLUGINS", "acme")
    assert "audit" not in hecate("--help")[1]
    assert hecate("audit")[0] == ExitCode.WRONG_INPUT


def test_a_command_that_two_provide_is_refused_only_when_used_bare(hecate: Hecate, distribution: Install) -> None:
    for name in ("acme", "beta"):
        points = f"[hecate.commands]\naudit = {name}_plugin.plugin:main\n"
        distribution(name, COMMAND, entry_points=points)
    assert hecate("audit")[2] == 'hecate: command "audit" is provided twice; write acme:audit or beta:audit\n'
    assert hecate("beta:audit")[:2] == (0, "got []\n")


def test_the_documented_exit_codes_are_the_ones_that_exist() -> None:
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    (written,) = re.findall(r"<!-- exit codes.*?-->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert written == exit_codes.table()
    assert set(exit_codes.MEANINGS) == set(ExitCode)


def test_progress_elsewhere_is_a_line_per_interval() -> None:
    lines: list[str] = []
    progress = LineProgress(5, interval=2, write=lines.append)
    for seconds in (0.5, 2.0, 0.5, 0.5, 0.5):
        progress.step(loss=3.25, tokens=4000, seconds=seconds)
    progress.close()
    assert lines == [
        "step 2/5  loss 3.2500  3.2k tokens/s (worst step 2.0k)  00:04 left",
        "step 4/5  loss 3.2500  4.6k tokens/s (worst step 2.0k)  00:01 left",
        "step 5/5  loss 3.2500  5.0k tokens/s (worst step 2.0k)  00:00 left",
    ]
    assert clock(3725) == "1:02:05"


@pytest.mark.parametrize("colour", [True, False])
def test_progress_on_a_terminal_is_redrawn_and_honours_no_color(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    progress = LiveProgress(3, console=Console(file=stream, force_terminal=True, width=120))
    progress.step(loss=1.5, tokens=10, seconds=1.0)
    progress.close()
    assert "step 1/3  loss 1.5000" in stream.getvalue()
    assert bool(re.search(r"\x1b\[(\d+;)*3[0-9]", stream.getvalue())) is colour


def test_output_takes_rich_only_on_a_terminal() -> None:
    code = (
        "from hecate_core.cli.output import Output; import sys; p = Output().progress(1, interval=1); "
        "p.step(loss=1.0, tokens=1, seconds=1.0); p.close(); print('rich' in sys.modules)"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert plain.stdout == "False\n"
    assert plain.stderr == "step 1/1  loss 1.0000  1 tokens/s (worst step 1)  00:00 left\n"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    try:
        watched = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True
        )
        assert watched.stdout == b"True\n"
        assert b"\x1b[" in os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)


MALFORMED = [
    "seed = -1",
    "seed = 'x'",
    "sede = 1",
    "seed",
    "[model",
    "[model]\nwidth = 0",
    "[model]\nwidth = 64.0",
    "[model]\nheads = 7",
    "[model]\nexpansion = nan",
    "[model]\nmemry = {}",
    "[model.memory]\nlevels = [0]",
    "[[model.memory.levels]]\nreduce = 'max'",
    "[model.memory]\nrule = 3",
    "[optimizer]\nname = []",
    "[schedule]\nfloor = 2",
    "[run]\nclip = -inf",
    "[run]\ndtype = 'float8'",
    "[data]\nbatch = true",
    "a = 1\na = 2",
    "\x00",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_config_ends_a_build_with_one_line(text: str, hecate: Hecate, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    status, out, err = hecate("build", str(path), "--out", str(tmp_path / "run"))
    assert (status, out) == (ExitCode.WRONG_INPUT, "")
    assert re.fullmatch(rf"{re.escape(str(path))}:\d+: .*; .*\n", err)
    assert not (tmp_path / "run").exists()


def test_the_documented_commands_are_the_ones_that_exist() -> None:
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    block = text.split("```")[1]
    assert list(dict.fromkeys(re.findall(r"^hecate (\w+)", block, re.MULTILINE))) == list(main.OURS)
