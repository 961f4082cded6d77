"""Code that runs a model to look at what comes out: by what it calls, and by what it does with the result."""

import ast

from hecate_lint.facts import split_words
from hecate_lint.index import Function, walk
from hecate_lint.names import dotted_text, parameters

MODELS = frozenset({"model", "net", "network", "unit", "generator", "encoder", "decoder", "policy"})


def runs_model(call: ast.Call) -> bool:
    """Whether what is called has the name of a model, bare or on self."""
    text = dotted_text(call.func)
    parts = text.split(".")
    if parts[-1] in MODELS and len(parts) <= 2:
        return len(parts) == 1 or parts[0] == "self"
    return False


def is_handed_a_model(function: Function, call: ast.Call) -> bool:
    """Whether the model that is called is an argument of the function, or its object's own."""
    text = dotted_text(call.func)
    names = {arg.arg for arg in parameters(function.args)}
    return text in names or text.startswith("self.")


def measures(function: Function) -> bool:
    """Whether nobody can want a gradient: evaluation by its name, `model.eval()`, or plain numbers out.

    Whoever samples or predicts may well differentiate what comes out.
    """
    words = set(split_words(function.name))
    if words & {"eval", "evaluate", "evaluation", "validate", "validation", "val"}:
        return True
    called = (n.func.attr for n in walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    return not {"eval", "argmax", "multinomial", "tolist", "item", "numpy", "cpu"}.isdisjoint(called)
