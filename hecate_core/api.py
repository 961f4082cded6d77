"""Everything a plugin may import from core; deeper modules are not a promise."""

from hecate_core.algebra import outer, scaled, times, times_transposed
from hecate_core.channel import SwiGLU
from hecate_core.cms import CMS
from hecate_core.composed import ComposedRule
from hecate_core.errors import CompositionError, ExitCode, HecateError, InputError, nearest
from hecate_core.files import append_bytes
from hecate_core.forms import Affine, Factors, Linearised, Pace, Refused, Sequenced
from hecate_core.gates import MOMENTUM, RETAIN, WRITE, Gate, steady_write
from hecate_core.knobs.algorithms import GradientDescent, Momentum
from hecate_core.knobs.biases import L2, Dot
from hecate_core.knobs.channel_decay import ColumnDecay, RowDecay
from hecate_core.knobs.delta_descent import DeltaGradientDescent
from hecate_core.knobs.matrix import Matrix
from hecate_core.knobs.mlp import MLP
from hecate_core.knobs.retentions import NoDecay, ScalarDecay
from hecate_core.levels import segments
from hecate_core.ops.affine import AffinePair, AffineTokens
from hecate_core.ops.affine_column import ColumnPair, ColumnTokens
from hecate_core.ops.decayed_linear import DecayedLinearPair, Decays, Reads
from hecate_core.ops.first_order import first_order
from hecate_core.ops.operator import is_shaping
from hecate_core.ops.sequence import SequencePair, sequence
from hecate_core.ops.serving import settled
from hecate_core.optimizers.adamw import AdamW
from hecate_core.optimizers.checks import at_least_zero, below_one
from hecate_core.optimizers.leveled import LevelOptimizer
from hecate_core.optimizers.owners import NamedParameters
from hecate_core.output_gate import OutputGate
from hecate_core.protocols import (
    Algorithm,
    Attention,
    AttentionalBias,
    Composition,
    Memory,
    MemoryRule,
    Param,
    Rates,
    Retention,
    Strategy,
    Structure,
    Trace,
)
from hecate_core.records import Params, State, Tokens
from hecate_core.registry import registry
from hecate_core.shapes import Bool, Float, Int, Tensor
from hecate_core.strategies.frozen import Frozen
from hecate_core.tasks import Sample, Task
from hecate_core.weights import Shared, Weights

__all__ = [
    "CMS",
    "L2",
    "MLP",
    "MOMENTUM",
    "RETAIN",
    "WRITE",
    "AdamW",
    "Affine",
    "AffinePair",
    "AffineTokens",
    "Algorithm",
    "Attention",
    "AttentionalBias",
    "Bool",
    "ColumnDecay",
    "ColumnPair",
    "ColumnTokens",
    "ComposedRule",
    "Composition",
    "CompositionError",
    "DecayedLinearPair",
    "Decays",
    "DeltaGradientDescent",
    "Dot",
    "ExitCode",
    "Factors",
    "Float",
    "Frozen",
    "Gate",
    "GradientDescent",
    "HecateError",
    "InputError",
    "Int",
    "LevelOptimizer",
    "Linearised",
    "Matrix",
    "Memory",
    "MemoryRule",
    "Momentum",
    "NamedParameters",
    "NoDecay",
    "OutputGate",
    "Pace",
    "Param",
    "Params",
    "Rates",
    "Reads",
    "Refused",
    "Retention",
    "RowDecay",
    "Sample",
    "ScalarDecay",
    "SequencePair",
    "Sequenced",
    "Shared",
    "State",
    "Strategy",
    "Structure",
    "SwiGLU",
    "Task",
    "Tensor",
    "Tokens",
    "Trace",
    "Weights",
    "append_bytes",
    "at_least_zero",
    "below_one",
    "first_order",
    "is_shaping",
    "nearest",
    "outer",
    "registry",
    "scaled",
    "segments",
    "sequence",
    "settled",
    "steady_write",
    "times",
    "times_transposed",
]
