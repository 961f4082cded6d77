"""Sources broken at random: each is a pass or one line with `file:line`; the tools neither crash nor hang."""

import random
import re
from pathlib import Path

import pytest
from hecate_kernels import child
from hecate_kernels.check import check_pair
from ramp import RampPair

RAMP = Path(__file__).with_name("ramp.cu")
LIMITS = child.Limits(wall_s=6, cpu_s=4)
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


def _outcome(seed: int, folder: Path) -> str | None:
    source = folder / "ramp.cu"
    source.write_text(mutate(RAMP.read_text(), random.Random(seed)))
    for line in check_pair("ramp", RampPair(source), checks=("numbers", "race"), limits=LIMITS):
        if not line.good:
            return line.text
    return None


def _assert_clean(text: str | None, seed: int) -> None:
    if text is not None:
        assert "\n" not in text, (seed, text)
        assert re.match(r"\S+\.(cu|cuh|cpp|hpp):\d+: \S", text), (seed, text)


@pytest.mark.parametrize("block", range(6))
def test_sixty_mutants_are_a_pass_or_one_line(block: int, tmp_path: Path) -> None:
    outcomes = [_outcome(seed, tmp_path) for seed in range(10 * block, 10 * block + 10)]
    for seed, text in enumerate(outcomes):
        _assert_clean(text, seed)
    assert any(outcomes), "a net that catches nothing is none"


@pytest.mark.soak
def test_a_thousand_mutants_are_a_pass_or_one_line(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        _assert_clean(_outcome(seed, tmp_path), seed)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    source = tmp_path / "ramp.cu"
    source.write_bytes(b"\xff\xfe\x00" + RAMP.read_bytes())
    (line,) = check_pair("ramp", RampPair(source), checks=("numbers",), limits=LIMITS)
    _assert_clean(line.text, 0)
    assert not line.good
