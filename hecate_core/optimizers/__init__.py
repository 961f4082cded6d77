"""Optimizers of the outer loop that know levels."""

from hecate_core.optimizers.adamw import AdamW
from hecate_core.optimizers.leveled import LevelOptimizer
from hecate_core.optimizers.owners import NamedParameters, level_of_parameters
from hecate_core.optimizers.sgd import SGD

__all__ = ["SGD", "AdamW", "LevelOptimizer", "NamedParameters", "level_of_parameters"]
