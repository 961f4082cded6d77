"""A text and a config that build in a second: what tests of runs start from."""

from pathlib import Path

CONFIG = """
seed = 0
[data]
path = "text.txt"
batch = 2
length = 16
[model]
width = 8
depth = 1
[model.memory]
chunk = 8
[schedule]
decay = "{decay}"
[run]
steps = {steps}
eval_interval = 0
checkpoint_interval = {interval}
"""


def write_text(lines: int) -> None:
    """`text.txt` in the present folder, a short paragraph per line."""
    Path("text.txt").write_text("\n\n".join(f"{n} and its square {n * n}, {'xy' * (n % 9)}" for n in range(lines)))


def tiny(*, steps: int = 4, interval: int = 2, decay: str = "cosine") -> str:
    """The config as TOML, on that text; `interval` is between checkpoints."""
    return CONFIG.format(steps=steps, interval=interval, decay=decay)
