"""The conformance kit: what every member of a kind must do, as named checks that run on tiny sizes.

    from hecate_core.testing import check_rule
    assert not [check.line for check in check_rule(MyRule()) if not check.ok]

`hecate check` and the pytest plugin (`pytest --hecate`) run the same checks over everything registered.
"""

from hecate_core.testing.compositions import check_composition
from hecate_core.testing.engine import Check
from hecate_core.testing.everything import check_member, check_registered
from hecate_core.testing.knobs import check_algorithm, check_bias, check_retention
from hecate_core.testing.rules import check_rule
from hecate_core.testing.strategies import check_strategy
from hecate_core.testing.structures import check_structure

__all__ = [
    "Check",
    "check_algorithm",
    "check_bias",
    "check_composition",
    "check_member",
    "check_registered",
    "check_retention",
    "check_rule",
    "check_strategy",
    "check_structure",
]
