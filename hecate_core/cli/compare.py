"""`hecate compare`: sides against the first one, paired by seed; refuses a winner where their conditions differ."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import asdict
from typer import Argument, Option

from hecate_core.cli.output import Output

if TYPE_CHECKING:
    from hecate_core.comparing import Verdict

First = Annotated[Path, Argument(help="A folder of runs (a sweep's cell), or RUN,RUN,RUN.")]
Others = Annotated[list[Path], Argument(help="One or several more, each against A.")]
Allow = Annotated[list[str] | None, Option("--allow", metavar="KEY", help="Let one condition differ; repeatable.")]
Score = Annotated[
    str | None, Option("--score", help="bits_per_byte, accuracy, or either with _memory_off (default: what both have).")
]


def compare(output: Output, a: First, b: Others, allow: Allow = None, score: Score = None) -> None:
    """Compare sides of runs with the first, seed by seed."""
    from hecate_core import comparing

    first, made = comparing.side(a), []
    for number, other in enumerate(b):
        side = comparing.side(other)
        verdict = comparing.compare(first, side, allow=allow or [], score=score, among=len(b))
        made.append((chr(ord("B") + number), other, verdict))
    lines = [line for name, other, verdict in made for line in _lines(a, name, other, verdict, len(b))]
    record = [{"a": str(a), "b": str(other), **asdict(verdict)} for _, other, verdict in made]
    output.result("hecate.comparisons/1", {"comparisons": record}, lines)


def _lines(a: Path, name: str, other: Path, verdict: "Verdict", among: int) -> Iterator[str]:
    from hecate_core.comparing import CONFIDENCE

    count, bound = len(verdict.seeds), f"{verdict.bound:.3f} standard errors of 0"
    winner = name if verdict.winner == "B" else verdict.winner
    who = f"{winner} is better: beyond {bound}" if winner else f"no winner: within {bound}"
    who += f" (t, {CONFIDENCE:.0%}, n = {count}{f', {among} comparisons' * (among > 1)})"
    yield f"A  {a}"
    yield f"{name}  {other}"
    for seed, difference in zip(verdict.seeds, verdict.differences, strict=True):
        yield f"seed {seed:<3} {name} - A {difference:+.4f}"
    yield (
        f"{verdict.score}: {name} - A {verdict.mean:+.4f} +- {verdict.spread:.4f}, {count} paired seeds; {who}"
        + "".join(f" [allowed to differ: {words}]" for words in verdict.allowed)
    )
    for words in verdict.settings or ["no setting"]:
        yield f"differs: {words}"
