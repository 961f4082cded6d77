"""`hecate demo`: build the example and its attention-only twin side by side, compare, show a sample."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from hecate_core.cli.output import Output
from hecate_core.errors import DataError

Out = Annotated[Path, Option("--out", metavar="DIR", help="Where both runs go.")]
Seed = Annotated[int, Option("--seed", help="Of both runs.")]
Steps = Annotated[int | None, Option("--steps", help="Of both runs (default: as the examples say).")]
PROMPT = "The "


def demo(output: Output, out: Out = Path("runs"), seed: Seed = 0, steps: Steps = None) -> None:
    """Build a memory model and its twin on the text in the package; about three minutes on two cores."""
    from hecate_core.building import new_folder
    from hecate_core.corpus import open_corpus
    from hecate_core.corpus.baselines import fit_baselines

    runs = {name: new_folder(out, name) for name in ("demo", "twin")}
    settings = [f"seed={seed}", *([] if steps is None else [f"run.steps={steps}"])]
    started = {name: _start(name, path, settings, quiet=name == "twin") for name, path in runs.items()}
    corpus = open_corpus()
    base = fit_baselines(corpus.train, corpus.heldout)
    finals = {name: _finish(name, runs[name], process) for name, process in started.items()}
    counts = {name: _parameters(path) for name, path in runs.items()}
    memory, off = (finals["demo"][key] for key in ("bits_per_byte", "bits_per_byte_memory_off"))
    rows: list[tuple[str, float, str]] = [
        ("uniform", base.uniform, ""),
        ("unigram", base.unigram, "fitted on the same text"),
        ("bigram", base.bigram, "fitted on the same text"),
        ("attention only", finals["twin"]["bits_per_byte"], f"{counts['twin']:,} parameters"),
        ("memory, on", memory, f"{counts['demo']:,} parameters"),
        ("memory, off", off, "the same model, writes masked: a sanity line, no comparison"),
    ]
    gap = finals["twin"]["bits_per_byte"] - memory
    verdict = f"the memory {'beats' if gap > 0 else 'loses to'} its twin by {abs(gap):.3f} bits per byte (one seed)"
    sample = _sample(runs["demo"])
    lines = [
        f"held-out bits per byte over {base.counted:,} bytes",
        *(f"  {name:<15} {bits:6.3f}  {remark}".rstrip() for name, bits, remark in rows),
        verdict,
        "",
        f"sample     {PROMPT}{sample}",
        f"run        {runs['demo']}",
        f"continue   hecate generate {runs['demo']} --prompt '{PROMPT}'",
    ]
    records = [{"name": name, "bits_per_byte": bits, "remark": remark} for name, bits, remark in rows]
    output.result(
        "hecate.comparisons/1", {"comparisons": records, "runs": [str(path) for path in runs.values()]}, lines
    )


def _start(name: str, path: Path, settings: list[str], *, quiet: bool) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "hecate_core.cli", "build", name, "--out", str(path)]
    words += [word for setting in settings for word in ("--set", setting)]
    errors = subprocess.PIPE if quiet else None
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)


def _finish(name: str, path: Path, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    from hecate_core.files import read_json_lines

    _, errors = process.communicate()
    if process.returncode:
        said = (errors or b"").decode(errors="replace").strip().splitlines()
        raise DataError(
            f"demo: the {name} build ended with status {process.returncode}" + (f": {said[-1]}" if said else "")
        )
    records, _ = read_json_lines(path / "metrics.jsonl")
    return records[-1]


def _parameters(path: Path) -> int:
    from hecate_core.run_folder import load_run

    return sum(parameter.numel() for parameter in load_run(path)[0].parameters())


def _sample(path: Path) -> str:
    from hecate_core.generation import generate
    from hecate_core.run_folder import load_run

    model, _ = load_run(path)
    text = b"".join(generate(model, PROMPT.encode(), count=160, temperature=0.6)).decode("utf-8", "replace")
    return " ".join(text.split())
