"""Sources broken at random: each is a pass or one line with `file:line`; the tools neither crash nor hang."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from faults import Planted
from hecate_kernels import child
from hecate_kernels.cache import cache_folder
from hecate_kernels.check import check_pair
from hecate_kernels.finding import find_pairs
from hecate_kernels.pair import CheckedPair, Trial
from ramp import RampPair

pytestmark = pytest.mark.usefixtures("scratch_builds")
RAMP = Path(__file__).with_name("ramp.cu")
PAIRS: dict[str, CheckedPair] = {**find_pairs([]), "ramp": RampPair()}
LIMITS = child.Limits(wall_s=12, cpu_s=6)
NUMBERS = re.compile(r"\b\d+\b")
OPERATORS = ["+", "-", "*", "/", "<", ">=", "==", "%", "&", "|"]


def mutate(text: str, random_: random.Random) -> str:
    """One change as a slip of the hand makes it, or as nobody would."""
    lines = text.splitlines()
    at = random_.randrange(len(lines))
    kind = random_.randrange(9)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[random_.randrange(len(lines))])
    elif kind == 2:
        other = random_.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = NUMBERS.sub(lambda _: str(random_.choice([0, 1, 2, 33, 4096, 2**31])), lines[at], count=1)
    elif kind == 4:
        lines[at] = lines[at].replace(random_.choice(OPERATORS), random_.choice(OPERATORS), 1)
    elif kind == 5 and lines[at]:
        cut = random_.randrange(len(lines[at]))
        lines[at] = lines[at][:cut] + lines[at][cut + 1 :]
    elif kind == 6:
        lines[at] = lines[at].replace("__syncthreads();", "").replace("0xFFFFFFFFu", "0xFFu")
    elif kind == 7:
        lines[at] = f"if (threadIdx.x > {random_.randrange(128)}) {{ {lines[at]} }}"
    else:
        lines[at] = lines[at].replace("threadIdx", "blockIdx").replace("[row", "[-row")
    return "\n".join(lines) + "\n"


class Smallest(Planted):
    """A pair elsewhere, with its smallest case of more than one token."""

    def trials(self, thorough: bool) -> list[Trial]:
        quick = [trial for trial in super().trials(False) if trial.quick and trial.length != 1]
        return [min(quick, key=lambda trial: trial.length * trial.width)]


def mutant(seed: int, folder: Path) -> tuple[str, CheckedPair]:
    """The seed chooses a pair in turn, one of its own files, and what happens to it."""
    random_ = random.Random(seed)
    op = list(PAIRS)[seed % len(PAIRS)]
    source = PAIRS[op].kernels.source
    text = source.read_text()
    own = [source, *(one for one in sorted(source.parent.glob("*.cuh")) if f'"{one.name}"' in text)]
    for file in source.parent.glob("*.cuh"):
        (folder / file.name).write_text(file.read_text())
    (folder / source.name).write_text(text)
    chosen = random_.choice(own)
    (folder / chosen.name).write_text(mutate(chosen.read_text(), random_))
    return op, Smallest(PAIRS[op], folder / source.name)


def outcome(seed: int, folder: Path) -> tuple[str, str | None]:
    """The op, and the line that the net says about the mutant; None for a pass. Its builds are thrown away.

    Of three rounds of pairs two are checked by numbers, one by racecheck: a build of its own each.
    """
    op, pair = mutant(seed, folder)
    check = "race" if seed // len(PAIRS) % 3 == 2 else "numbers"
    (line,) = check_pair(op, pair, checks=(check,), limits=LIMITS)
    found = None if line.good else line.text
    for built in cache_folder().iterdir():
        if built.is_file() and not built.name.startswith(".") and not {".o", ".hpp"} & set(built.suffixes):
            built.unlink()
    return op, found


def _assert_clean(text: str | None, seed: int) -> None:
    if text is not None:
        assert "\n" not in text, (seed, text)
        assert re.match(r"\S+\.(cu|cuh|cpp|hpp):\d+: \S", text), (seed, text)


def _assert_all_clean(seeds: range, folder: Path) -> None:
    passed: Counter[str] = Counter()
    for seed in seeds:
        op, text = outcome(seed, folder)
        _assert_clean(text, seed)
        passed[op] += text is None
    print(f"{len(seeds)} mutants: {len(seeds) - passed.total()} found, passed by pair {dict(passed)}")
    assert passed.total() < len(seeds), "a net that catches nothing is none"


@pytest.mark.parametrize("block", range(3))  # of twenty: six may all be harmless
def test_sixty_mutants_are_a_pass_or_one_line(block: int, tmp_path: Path) -> None:
    _assert_all_clean(range(20 * block, 20 * block + 20), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(10))
def test_a_thousand_mutants_are_a_pass_or_one_line(block: int, tmp_path: Path) -> None:
    _assert_all_clean(range(1000 + 100 * block, 1100 + 100 * block), tmp_path)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    source = tmp_path / "ramp.cu"
    source.write_bytes(b"\xff\xfe\x00" + RAMP.read_bytes())
    (line,) = check_pair("ramp", RampPair(source), checks=("numbers",), limits=LIMITS)
    _assert_clean(line.text, 0)
    assert not line.good
