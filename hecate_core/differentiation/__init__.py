"""Differentiation is opt-in: what is not marked is not differentiated, and a severed gradient is an error.

The reader's page is docs/differentiation.md.
"""

from hecate_core.differentiation.errors import ChangedArgument, SeveredGradient
from hecate_core.differentiation.marks import autodiff, cut, no_autodiff
from hecate_core.differentiation.tape import Tape
from hecate_core.differentiation.vjp import custom_vjp

__all__ = ["ChangedArgument", "SeveredGradient", "Tape", "autodiff", "custom_vjp", "cut", "no_autodiff"]
