"""Members with one planted fault each, beside the name of the check that must tell it."""

from . import compositions, forms, knobs, steps, strategies
from .planting import DELTA, FAULTS

__all__ = ["DELTA", "FAULTS", "compositions", "forms", "knobs", "steps", "strategies"]
