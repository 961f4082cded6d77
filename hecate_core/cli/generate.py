"""`hecate generate`: continue a prompt with a run's model, its memory on or off."""

import codecs
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from hecate_core.cli.output import Output

Run = Annotated[Path, Argument(metavar="RUN", help="A folder made by hecate build.")]
Prompt = Annotated[str, Option("--prompt", metavar="TEXT", help="What to continue.")]
Switch = Annotated[Literal["on", "off"], Option("--memory", help="Whether the memory is written.")]
Learn = Annotated[bool, Option("--learn", help="Let levels that learn as they read learn from the prompt.")]
Count = Annotated[int, Option("--count", help="Bytes to add.")]
Temperature = Annotated[float, Option("--temperature", help="0 takes the likeliest byte.")]
Seed = Annotated[int, Option("--seed", help="Of the sampling.")]


def generate(
    output: Output,
    run: Run,
    prompt: Prompt,
    memory: Switch = "on",
    count: Count = 200,
    temperature: Temperature = 0.8,
    seed: Seed = 0,
    *,
    learn: Learn = False,
) -> None:
    """Continue a prompt with the model of a run."""
    import torch

    from hecate_core import generation
    from hecate_core.run_folder import load_run

    model, config = load_run(run)
    torch.set_num_threads(config.run.threads)
    continued = generation.generate(
        model,
        prompt.encode("utf-8", "surrogateescape"),
        count=count,
        temperature=temperature,
        seed=seed,
        remember=memory == "on",
        learn=learn,
    )
    output.text(prompt)
    pieces = []
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for piece in continued:
        pieces.append(piece)
        output.text(decoder.decode(piece))
    output.text(decoder.decode(b"", final=True))
    text = b"".join(pieces).decode("utf-8", "replace")
    record = {"run": str(run), "prompt": prompt, "memory": memory, "learn": learn, "text": text}
    output.result("hecate.samples/1", {"samples": [record]}, [""])
