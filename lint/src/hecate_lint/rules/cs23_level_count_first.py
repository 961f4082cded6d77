"""CS-23: a unit's config counts layers and widths, not levels."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import decorators, last_word


class LevelCountFirst(WordsRule):
    """A unit's config counts layers and widths, not levels.

    SMELL. `@unit_config` with depth or width fields and no level count. Words are compared, never substrings;
    names from elsewhere are exempt.

    WHY. The number of levels is the first decision of a nested system; without it depth is taken for it.

    FIX. Name levels first.

    TRACE. Catalogue smell CS-23. Off unless selected.
    """

    id = "CS-23"
    name = "level-count-first"
    why = "the number of levels is the first decision of a nested system; without it depth is taken for it"
    mend = "name levels first"

    VALID = """
@unit_config
class Cfg:
    levels: int
    hidden_size: int
# ---
@dataclass
class TokenizerCfg:
    vocab: int
# ---
@unit_config
class Cfg:
    periods: list
    depth: int
# ---
class Cfg:
    depth: int
# ---
@unit_config
class Cfg:
    name: str
"""
    INVALID = """
@unit_config
class Cfg:
    hidden_size: int  # <-
    num_layers: int
# ---
@unit_config
class Cfg:
    depth: int = 12  # <-
# ---
@api.unit_config
class Cfg:
    width: int  # <-
# ---
@unit_config()
class Cfg:
    name: str
    d_model: int = 64  # <-
# ---
@unit_config
class Small:
    heads: int  # <-
    vocab: int
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Unit configs without a level count."""
        for cls in file.index.all(ast.ClassDef):
            if "unit_config" in decorators(cls):
                fields = [i for i in cls.body if isinstance(i, ast.AnnAssign) and isinstance(i.target, ast.Name)]
                names = {last_word(i.target) for i in fields}
                sized = [i for i in fields if last_word(i.target) in _SIZES]
                if sized and not names & {"levels", "num_levels", "frequencies", "periods"}:
                    yield Hit(sized[0], f"`{cls.name}` has sizes and no level count", "likely")


_SIZES = frozenset({"depth", "width", "hidden_size", "num_layers", "n_layers", "d_model", "heads"})
