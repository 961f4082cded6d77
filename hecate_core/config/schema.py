"""Everything a run can be told, with its default and its range; docs/config.md shows it as a file.

One class per table. `Reference` fields name a component that somebody registers; whether the name
exists is the registry's question, not the schema's. A table without `name` means the default one.
"""

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

from hecate_core.config.ranges import above, at_least, distinct, each_at_least, filled, within
from hecate_core.config.reference import Reference
from hecate_core.config.values import WrongValueError


@frozen
class Data:
    """What is read, and in which portions."""

    path: str | None = field(default=None, validator=filled)  # a text file; none: the text in the package
    task: Reference | None = None  # a synthetic task instead of a text; its contexts are the chunks
    batch: int = field(default=8, validator=at_least(1))  # rows that stream side by side
    length: int = field(default=256, validator=at_least(1))  # tokens per row and step
    context: int | None = field(default=None, validator=at_least(1))  # tokens until a fresh state; none: carry on
    documents: bool = False  # whether a document that begins inside a row sees nothing from before it


@frozen
class Attention:
    """Sliding-window attention of a block."""

    window: int = field(default=64, validator=at_least(1))  # tokens back, itself included
    persistent: int = field(default=4, validator=at_least(0))  # learned tokens that stay visible
    rotary: bool = True


@frozen
class Level:
    """One memory level and its periods; write and reset in grains of tokens, update in steps."""

    write_period: int = field(default=1, validator=at_least(1))
    update_period: int = field(default=1, validator=at_least(1))
    reset_period: int = field(default=0, validator=at_least(0))  # 0: never
    reduce: Literal["sum", "mean"] = "sum"  # what becomes of the gradients of resting steps
    lr_scale: float = field(default=1.0, validator=within(0, 1e9))
    gates: Mapping[str, Mapping[str, float]] = field(factory=dict)  # per gate low, high, init: narrowed, never widened
    frequency: Literal["fixed", "learned"] = "fixed"  # learned: writes when due and when the grain before says so


@frozen
class Memory:
    """The memory of a block: what writes, how the work is spread over time, at which periods."""

    rule: Reference = field(default=Reference("titans"))
    strategy: Reference = field(default=Reference("chunkwise"))
    chunk: int = field(default=64, validator=at_least(1))  # tokens a strategy handles together
    grain: int | None = field(default=None, validator=at_least(1))  # tokens per tick; none: the chunk
    conv: int = field(default=4, validator=at_least(0))  # width of the causal short conv, 0: none
    conv_streams: tuple[Literal["q", "k", "v"], ...] = field(default=("q", "k", "v"), validator=distinct)
    aggregate: Literal["invsqrt", "sum", "softmax"] = "invsqrt"  # how the reads of several levels add up
    backend: str = field(default="auto", validator=filled)
    widths: Mapping[str, int] = field(
        factory=dict, validator=each_at_least(1)
    )  # by letter, where a rule has one: M slots
    writes: bool = True  # false: never written, the twin that a memory is compared with
    levels: tuple[Level, ...] = field(default=(Level(),), validator=filled)


@frozen
class ChainLevel:
    """One MLP of a chain and its paces; write and reset in grains of tokens, update in steps."""

    write_period: int = field(default=1, validator=at_least(1))  # between the steps of a level that learns as it reads
    update_period: int = field(default=1, validator=at_least(1))
    reset_period: int = field(default=0, validator=at_least(0))  # 0: never
    reduce: Literal["sum", "mean"] = "sum"  # what becomes of gradients between steps, on either clock
    lr_scale: float = field(default=1.0, validator=within(0, 1e9))
    rate: float = field(default=0.0, validator=at_least(0))  # step size of learning as it reads; 0: it does not
    frequency: Literal["fixed", "learned"] = "fixed"  # learned: steps when due and when the period just read says so


@frozen
class Chain:
    """Where channel = "cms": MLPs one behind the other (or side by side), the fastest first."""

    deployment: Literal["sequential", "nested", "independent"] = "sequential"
    aggregate: Literal["softmax", "sum", "invsqrt"] = "softmax"  # how independent MLPs add up
    skip: bool = True  # each MLP of a chain adds to what it was given
    grain: int = field(default=64, validator=at_least(1))  # tokens per tick
    blocks: tuple[int, ...] | None = None  # which blocks have the chain, the others one MLP; none: all
    levels: tuple[ChainLevel, ...] = field(
        default=(ChainLevel(), ChainLevel(write_period=8, update_period=8)), validator=filled
    )


@frozen
class Model:
    """The model: `depth` equal blocks of one composition."""

    width: int = field(default=64, validator=at_least(1))
    depth: int = field(default=2, validator=at_least(1))
    heads: int = field(default=2, validator=at_least(1))
    vocab: int = field(default=256, validator=at_least(1))
    residual: bool = True
    norm: Literal["rms", "layer", "none"] = "rms"
    channel: Literal["swiglu", "cms", "none"] = "swiglu"
    expansion: float = field(default=2.667, validator=above(0))  # hidden width of the channel MLP / width
    init_scale: float = field(default=0.02, validator=above(0))  # standard deviation of the embedding
    composition: Reference = field(default=Reference("mag"))
    attention: Attention = Attention()
    cms: Chain = field(default=Chain())
    memory: Memory | None = Memory()

    @cms.validator
    def _blocks_exist(self, _: Any, cms: Chain) -> None:
        for index, block in enumerate(cms.blocks or ()):
            if not 0 <= block < self.depth:
                raise WrongValueError(block, f"a block below depth = {self.depth}", ("cms", "blocks", index))

    @heads.validator
    def _heads_divide_width(self, _: Any, heads: int) -> None:
        if heads >= 1 and self.width % heads:
            raise WrongValueError(heads, f"a divisor of width = {self.width}", ("heads",))


@frozen
class Start:
    """What weights are where they are not drawn from the seed; `{seed}` in a path stands for the run's own."""

    weights: str | None = field(default=None, validator=filled)  # a run, or a checkpoint of one: all weights are its
    mlps: str | None = field(default=None, validator=filled)  # the same; the levels of chains begin as its MLPs
    stack: tuple[tuple[int, ...], ...] | None = field(
        default=None, validator=filled
    )  # per block with a chain the block whose MLP each level begins as; none: the block's own

    @stack.validator
    def _mlps_are_named(self, _: Any, stack: tuple[tuple[int, ...], ...] | None) -> None:
        if stack is not None and self.mlps is None:
            raise WrongValueError([list(row) for row in stack], "the run of these blocks as mlps beside it", ("stack",))


@frozen
class Schedule:
    """The learning rate over the steps: linear warm-up, then a decay to `floor` times its peak."""

    warmup: int = field(default=20, validator=at_least(0))  # steps
    decay: Literal["cosine", "constant"] = "cosine"
    floor: float = field(default=0.0, validator=within(0, 1))


@frozen
class Run:
    """How long, on what and how often; intervals in steps, 0 is never."""

    steps: int = field(default=300, validator=at_least(0))
    accumulate: int = field(default=1, validator=at_least(1))  # batches per step
    clip: float | None = field(default=1.0, validator=above(0))  # global gradient norm
    log_interval: int = field(default=10, validator=at_least(1))
    eval_interval: int = field(default=100, validator=at_least(0))
    checkpoint_interval: int = field(default=100, validator=at_least(0))
    keep: int = field(default=3, validator=at_least(1))  # checkpoints that stay
    device: str = field(default="cpu", validator=filled)
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    autocast: Literal["bfloat16", "float16"] | None = None
    threads: int = field(
        default=1, validator=within(1, 1024)
    )  # more than a machine has cores; far more end torch itself
    wall: bool = True  # the differentiation wall
    sinks: tuple[str, ...] = field(default=(), validator=distinct)  # components that are told every record


@frozen
class Plugins:
    """Which installed plugins stay out; nothing of theirs is imported."""

    disable: tuple[str, ...] = ()


@frozen
class Config:
    """A whole run."""

    seed: int = field(default=0, validator=at_least(0))
    data: Data = Data()
    model: Model = Model()
    start: Start = Start()
    optimizer: Reference = field(default=Reference("adamw"))
    schedule: Schedule = Schedule()
    run: Run = Run()
    plugins: Plugins = Plugins()
