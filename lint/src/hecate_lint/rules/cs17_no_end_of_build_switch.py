"""CS-17: something is frozen or compiled when building ends."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File, split_words
from hecate_lint.index import function_of, parent
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule


class NoEndOfBuildSwitch(WordsRule):
    """Something is frozen or compiled when building ends.

    SMELL. `on_build_complete` that freezes; `finish` that compiles. Words are compared, never substrings; names
    from elsewhere are exempt.

    WHY. After the switch another unit runs than the one that was built.

    FIX. Set the phase; change nothing else.

    TRACE. Catalogue smell CS-17. Off unless selected.
    """

    id = "CS-17"
    name = "no-end-of-build-switch"
    why = "after the switch another unit runs than the one that was built"
    mend = "set the phase; change nothing else"

    VALID = """
def finish(self):
    self.conductor.set_phase(Phase.TEST)
# ---
def close(self):
    self.file.close()
# ---
def setup(self):
    self.compile()
# ---
def finish(self):
    return re.compile("x")
# ---
def on_start(self):
    self.freeze()
"""
    INVALID = """
def on_build_complete(self):
    self.freeze()  # <-
# ---
def finish(self):
    self.compile()  # <-
# ---
def on_build_end(self, unit):
    unit.eval()  # <-
# ---
class U:
    def finalize(self):
        self.model.quantize()  # <-
# ---
def on_stream_done(self):
    self.unit.memory.freeze()  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Freezing and compiling calls in end-of-build hooks."""
        for node in file.index.word("freeze", "compile", "quantize", "eval"):
            call, function = parent(node), function_of(node)
            if not (
                isinstance(node, ast.Attribute)
                and isinstance(call, ast.Call)
                and call.func is node
                and function is not None
            ):
                continue
            if isinstance(node.value, ast.Name) and node.value.id in ("re", "torch"):
                continue
            words = split_words(function.name)
            if function.name in ("finish", "finalize") or (
                words[:1] == ["on"] and set(words) & {"complete", "end", "finish", "finished", "done"}
            ):
                yield Hit(call, f"`{function.name}` calls `{node.attr}`: another unit runs afterwards", "likely")
