"""CS-06: inner-loop state hides in a buffer."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File, split_words
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import strings_in


class BufferAsMemory(WordsRule):
    """Inner-loop state hides in a buffer.

    SMELL. `register_buffer` for a name that says momentum, memory or state. Words are compared, never
    substrings; names from elsewhere are exempt.

    WHY. A buffer is saved or not by a flag and shared by every row; inner state has a declared lifetime.

    FIX. Declare the state with its lifetime.

    TRACE. Catalogue smell CS-06. Off unless selected.
    """

    id = "CS-06"
    name = "buffer-as-memory"
    why = "a buffer is saved or not by a flag and shared by every row; inner state has a declared lifetime"
    mend = "declare the state with its lifetime"

    VALID = """
self.register_buffer("inv_freq", f, persistent=False)
# ---
self.declare_state("momentum", lifetime="inner")
# ---
self.register_buffer("mask", m)
# ---
self.register_parameter("memory", p)
# ---
register_buffer = None
"""
    INVALID = """
self.register_buffer("momentum", torch.zeros(4))  # <-
# ---
self.register_buffer(f"{n}_memory", torch.zeros(4))  # <-
# ---
self.register_buffer("inner_state", torch.zeros(4), persistent=False)  # <-
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("surprise", torch.zeros(2))  # <-
# ---
module.register_buffer("velocity_0", v)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Registrations whose name says inner state."""
        for node in file.index.word("register_buffer"):
            call = parent(node)
            if isinstance(call, ast.Call) and call.func is node and call.args:
                text = "".join(strings_in(call.args[0]))
                if set(split_words(text)) & _INNER:
                    yield Hit(call, f'"{text.strip("_")}" is inner state in a buffer', "likely")


_INNER = frozenset({"momentum", "memory", "state", "surprise", "velocity"})
