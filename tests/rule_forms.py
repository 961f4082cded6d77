"""Every form that options give a registered rule, beside its default; test_rule_forms.py says what is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

FORMS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "linear": [{"learn_start": True}],
    "hebbian": [{"learn_start": True}],
    "delta": [{"at": "raw"}, {"learn_start": True}],
    "kda": [{"learn_start": True}],
    "dgd": [{"bias": "l2"}, {"bias": "huber"}, {"erase": "gate"}, {"bias": "l2", "erase": "gate", "learn_start": True}],
    "titans": [{"learn_start": True}, {"keys": "unordered", "largest_momentum": 0.9}],
    "titans-deep": [
        {"depth": 1},
        {"depth": 3},
        {"activation": "silu"},
        {"residual": True},
        {"norm": True},
        {"residual": True, "norm": True},
    ],
    "moneta": [
        {"link": "dual"},
        {"link": "exact", "q": 1.5},  # at q = 4 the slope at 0 is infinite: test_knob_products.py keeps away from it
        {"smooth": False},
        {"depth": 1},
        {"activation": "silu"},
        {"residual": False},
        {"norm": False, "link": "dual"},
    ],
    "yaad": [
        {"form": "coordinate"},
        {"form": "norm"},
        {"depth": 1},
        {"activation": "silu"},
        {"residual": False},
        {"norm": False},
    ],
    "memora": [
        {"over": "row"},
        {"over": "all"},
        {"depth": 1},
        {"activation": "silu"},
        {"residual": False},
        {"norm": False},
    ],
    "lattice": [
        {"variant": "encode"},
        {"variant": "similarity"},
        {"decay": True},
        {"variant": "encode", "decay": True},
    ],
    "trellis": [
        {"phi": "identity", "f": "identity"},
        {"phi": "ln-silu", "f": "l2-silu"},
        {"phi": "l2-silu", "f": "softmax"},
        {"out": "identity"},
        {"start": "zeros"},
        {"rate": "plain"},
    ],
    "omega": [
        {"window": 1},
        {"window": 2, "features": "identity"},
        {"momentum": True},
        {"depth": 2},
        {"depth": 2, "momentum": True, "features": "identity"},
        {"depth": 2, "features": "identity", "residual": False},
    ],
    "atlas": [
        {"window": 1},
        {"window": 2, "features": "identity"},
        {"rate": "inside"},
        {"coefficients": "polar"},
        {"depth": 2, "features": "identity"},
        {"depth": 2, "features": "identity", "residual": False},
    ],
    "self-modifying-titans": [
        {"structure": "matrix"},
        {"structure": "matrix", "bias": "dot"},
        {"erase": "first"},
        {"erase": "none"},
        {"adapt_q": True},
        {"adapt_q": True, "query": "front"},
        {"momentum": True},
        {"values": "free"},
        {"projection_chunks": 2},
    ],
}

CASES = [(name, options) for name, several in FORMS.items() for options in several]
