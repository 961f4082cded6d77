"""Whatever a stranger's pair raises is one line, and the next check follows."""

# ruff: noqa: E501
import importlib
import re
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hecate_kernels import strangers
from hecate_kernels.check import check_pair
from hecate_kernels.failure import KernelError
from hecate_kernels.overdue import ended_after, not_counted
from hecate_kernels.pair import InOut, Kernel, Launcher, Outputs, Trial
from hecate_kernels.strangers import calling
from ramp import RampPair

from hecate_core.api import ExitCode

HERE = re.escape(__file__)


class Odd(RampPair):
    """Ramp with other trials."""

    def __init__(self, trials: Callable[[list[Trial]], Any]) -> None:
        super().__init__()
        self._odd = trials

    def trials(self, thorough: bool) -> Iterable[Trial]:
        found: Iterable[Trial] = self._odd(list(super().trials(thorough)))
        return found


class LeavingError(BaseException):
    """No Exception, and it cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("not even that")


def _raise(error: BaseException) -> Any:
    raise error


def _first(**changes: Any) -> Callable[[list[Trial]], list[Trial]]:
    return lambda trials: [attrs.evolve(trials[0], **changes)]


def _after_one(trials: list[Trial]) -> Iterable[Trial]:
    yield trials[0]
    raise RuntimeError("later")


def _with_a_bare_number(trials: list[Trial]) -> list[Trial]:
    def run(where: Launcher) -> Outputs:
        x = torch.zeros(1, 4)
        kernel = Kernel(RampPair().kernels.source, "ramp_forward", (("THREADS", 128),))
        where.launch(kernel, (1, 1, 1), (128, 1, 1), [x, x, InOut(x.clone()), 4], 512)
        return {}

    return [attrs.evolve(trials[0], run=run)]


@pytest.mark.parametrize(
    ("trials", "line"),
    [
        (lambda _: _raise(RuntimeError("boom\nbang")), rf"{HERE}:\d+: trials\(\) raised RuntimeError: boom bang; expected"),
        (lambda _: _raise(SystemExit(0)), rf"{HERE}:\d+: trials\(\) called sys\.exit\(0\); expected an iterable of Trial"),
        (lambda _: _raise(LeavingError()), rf"{HERE}:\d+: trials\(\) raised LeavingError: \(its text cannot be shown\)"),
        (lambda _: None, r"ramp\.cu:1: trials\(\) raised TypeError: 'NoneType' object is not iterable; expected"),
        (lambda _: [None], r"ramp\.cu:1: trials\(\) gives NoneType; expected Trial"),
        (_after_one, rf"{HERE}:\d+: trials\(\) raised RuntimeError: later"),
        (_first(run=lambda _: _raise(KeyError("y"))), rf"{HERE}:\d+: the run of T 7 raised KeyError: 'y'; expected tensors"),
        (_first(truth=lambda: _raise(SystemExit("x"))), rf"{HERE}:\d+: the truth of T 7 called sys\.exit\(x\); expected"),
        (_first(truth=lambda: ["d_x"]), r"ramp\.cu:1: the truth of T 7 raised TypeError: it gives list, no tensors by name"),
        (_first(dtype="float16"), r"ramp\.cu:1: T 7 is in float16, for which the pair declares no tolerance; declared: f"),
        (_with_a_bare_number, r"ramp\.cu:1: argument 3 of ramp_forward: int 4 has no width; pass numpy\.int32\(\.\.\.\)"),
    ],
)  # fmt: skip
def test_what_a_pair_raises_is_a_line_and_the_next_check_follows(trials: Any, line: str) -> None:
    lines = list(check_pair("odd", Odd(trials), checks=("numbers", "numbers")))
    assert len(lines) == 2
    for found in lines:
        assert found.status == ExitCode.FOUND
        assert re.search(line, found.text), found.text
        assert "\n" not in str(found)


def test_other_parts_of_a_pair_raise_as_well() -> None:
    class Shapeless(RampPair):
        def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
            raise LookupError("no card")

    class Undeclared(RampPair):
        def __init__(self) -> None:
            super().__init__()
            self.kernels = None

    (line,) = check_pair("odd", Shapeless(), checks=("compile",))
    assert re.search(rf"{HERE}:\d+: specialisations\(\) raised LookupError: no card; expected Kernels", line.text)
    lines = list(check_pair("odd", Undeclared(), checks=("numbers", "compile")))
    assert [one.status for one in lines] == [ExitCode.FOUND] * 2


def test_a_module_among_the_installed_ones_is_blamed_for_its_own_line(tmp_path: Path) -> None:
    home = tmp_path / "site-packages"
    home.mkdir()
    (home / "other.py").write_text("def fail():\n    raise RuntimeError('inside')\n")
    ours = (
        "import other\n\n\nclass Mine:\n    kernels = None\n\n    def trials(self, thorough):\n        other.fail()\n"
    )
    (home / "mine_of_a_stranger.py").write_text(ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        pair = importlib.import_module("mine_of_a_stranger").Mine()
    told = rf"^{home}/mine_of_a_stranger\.py:8: it raised RuntimeError: inside; expected more$"
    with pytest.raises(KernelError, match=told), calling("it", "more", pair):
        pair.trials(False)


def _forever(*_: Any) -> Any:
    while True:
        try:
            while True:
                torch.zeros(1)  # for ever
        except Exception:
            continue


@pytest.mark.parametrize(
    ("trials", "what"),
    [(_forever, r"trials\(\)"), (_first(truth=_forever), "the truth of T 7"), (_first(run=_forever), "the run of T 7")],
)
def test_python_that_goes_on_for_ever_is_ended_in_its_line(
    trials: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "PYTHON_S", 0.2)
    (line,) = check_pair("ramp", Odd(trials), checks=("numbers",))
    assert line.status == ExitCode.FOUND
    assert re.match(rf"{HERE}:\d+: {what} took longer than 0\.2 s; expected", line.text), line.text


def test_what_a_launch_takes_is_not_counted() -> None:
    with ended_after(1000):
        with not_counted():
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_thread_of_its_own_is_handed_no_signal() -> None:
    done: list[int] = []

    def work() -> None:
        with ended_after(0.01), not_counted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_interrupt_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        list(check_pair("odd", Odd(lambda _: _raise(KeyboardInterrupt())), checks=("numbers",)))


def test_a_launch_that_asks_for_more_than_its_kernel_says_is_found() -> None:
    class Modest(RampPair):
        def _run(self, where: Launcher, *given: Any) -> Outputs:
            return super()._run(_Relabelled(where), *given)

    (line,) = check_pair("odd", Modest(), checks=("numbers",))
    assert (
        "a launch of ramp_forward THREADS=128 asks for 512 bytes of dynamic shared memory; the kernel says" in line.text
    )


class _Relabelled:
    """Kernels that say less than their launches ask for."""

    def __init__(self, where: Launcher) -> None:
        self.name, self.most_blocks, self.shared_limit, self._where = "x", 1, where.shared_limit, where

    def launch(self, kernel: Kernel, *given: Any) -> None:
        self._where.launch(attrs.evolve(kernel, shared_bytes=128), *given)
