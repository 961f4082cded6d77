"""`hecate compare`: two sides, paired by seed; refuses a winner where their conditions differ."""

from pathlib import Path
from typing import Annotated

from attrs import asdict
from typer import Argument, Option

from hecate_core.cli.output import Output

Side = Annotated[Path, Argument(help="A folder of runs (a sweep's cell), or RUN,RUN,RUN.")]
Allow = Annotated[list[str] | None, Option("--allow", metavar="KEY", help="Let one condition differ; repeatable.")]
Score = Annotated[
    str | None, Option("--score", help="bits_per_byte, accuracy, or either with _memory_off (default: what both have).")
]


def compare(output: Output, a: Side, b: Side, allow: Allow = None, score: Score = None) -> None:
    """Compare two sides of runs, seed by seed."""
    from hecate_core import comparing

    verdict = comparing.compare(comparing.side(a), comparing.side(b), allow=allow or [], score=score)
    count, bound = len(verdict.seeds), f"{verdict.bound:.3f} standard errors of 0"
    who = f"{verdict.winner} is better: beyond {bound}" if verdict.winner else f"no winner: within {bound}"
    who += f" (t, {comparing.CONFIDENCE:.0%}, n = {count})"
    lines = [
        f"A  {a}",
        f"B  {b}",
        *(f"seed {seed:<3} B - A {d:+.4f}" for seed, d in zip(verdict.seeds, verdict.differences, strict=True)),
        f"{verdict.score}: B - A {verdict.mean:+.4f} +- {verdict.spread:.4f}, {count} paired seeds; {who}"
        + "".join(f" [allowed to differ: {words}]" for words in verdict.allowed),
        *(f"differs: {words}" for words in verdict.settings or ["no setting"]),
    ]
    output.result("hecate.comparisons/1", {"comparisons": [{"a": str(a), "b": str(b), **asdict(verdict)}]}, lines)
