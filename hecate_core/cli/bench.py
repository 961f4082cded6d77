"""`hecate bench`: tokens per second of memory layers, rule by rule, plain torch against kernels."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from hecate_core.cli.output import Output
from hecate_core.errors import InputError

Rules = Annotated[str | None, Option("--rule", metavar="A,B", help="Rules to time (default: all).")]
Lengths = Annotated[str, Option("--tokens", metavar="N,M", help="Lengths of a call.")]
Devices = Annotated[str | None, Option("--device", metavar="A,B", help="Devices (default: the CPU and every GPU).")]
Backends = Annotated[str | None, Option("--backend", metavar="A,B", help="reference, nvrtc ... (default: by device).")]
Width = Annotated[int, Option("--width", help="Of the layer.")]
Heads = Annotated[int, Option("--heads", help="Of the layer.")]
Batch = Annotated[int, Option("--batch", help="Rows of a call.")]
Seconds = Annotated[float, Option("--seconds", help="Time for each number.")]
Out = Annotated[Path | None, Option("-o", "--out", metavar="FILE.json", help="Save everything, manifest included.")]


def bench(
    output: Output,
    *,
    rule: Rules = None,
    tokens: Lengths = "256,1024",
    device: Devices = None,
    backend: Backends = None,
    width: Width = 64,
    heads: Heads = 2,
    batch: Batch = 1,
    seconds: Seconds = 1.0,
    out: Out = None,
) -> None:
    """Time memory layers: rules x lengths x devices, plain torch against kernels."""
    import torch

    from hecate_core import benching, files
    from hecate_core.registry import registry

    torch.set_num_threads(1)  # a second one makes small products slower
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    plan = benching.Plan(
        rules=tuple(rule.split(",") if rule else registry().names("rule")),
        lengths=_lengths(tokens),
        devices=tuple(device.split(",") if device else here),
        backends=tuple(backend.split(",") if backend else ()),
        width=width,
        heads=heads,
        batch=batch,
        seconds=seconds,
    )
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds}; expected a finite number > 0")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise InputError(f"--out {out}: no file can be written there; expected a name in a folder that exists")
    found = benching.bench(plan, tell=lambda row: output.note(_said(row)))
    asked = [row for row in found["rows"] if row["backend"] in plan.backends]  # not the reference beside kernels
    if backend and all("reason" in row for row in asked):
        raise InputError(f"--backend {backend}: {asked[0]['reason']}")
    if out is not None:
        files.write_json(out, found)
    head = ("rule", "device", "backend", "strategy", "tokens", "state bytes", "forward tok/s", "+ backward tok/s")
    lines = ["  ".join(str(cell) for cell in row) for row in (head, *benching.table(found))]
    output.result(benching.SCHEMA, {"benches": [found]}, [*lines, f"id {found['id']}"])


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f'--tokens "{text}"; expected lengths such as 256,1024') from None


def _said(row: dict[str, Any]) -> str:
    what = row.get("reason") or f"{row['forward']['tokens_per_second']:,} tokens/s forward"
    how = f"{row['strategy']} on {row['backend']}" if "strategy" in row else row["backend"]
    return f"{row['rule']} {row['tokens']} {how}: {what}"
