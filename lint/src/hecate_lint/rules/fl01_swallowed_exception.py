"""FL-01: an error of any kind that nobody will ever hear of."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import function_of, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_WIDE = frozenset({"builtins.Exception", "builtins.BaseException"})
_REPORTS = frozenset(
    "exception error critical warning warn print print_exc format_exc put put_nowait set_exception fail skip"
    " log_exception"
    " showwarning capture_exception exit _exit abort report info debug append add write".split()
)


class SwallowedException(Rule):
    """Every kind of error is caught and nothing is said.

    SMELL. `except:`, `except Exception` or `suppress(Exception)` whose body neither raises nor records the
    error: `pass`, `continue`, a default value.

    WHY. A misspelt name, a full disk and an interrupted collective all become the default value, and the run
    goes on with it.

    FIX. Catch the narrow type that is expected here, or raise a narrower error `from` this one.

    TRACE. Fail-loud rule FL-01.
    """

    id = "FL-01"
    name = "swallowed-exception"
    group = "fail-loud"
    severity = "error"
    why = "a misspelt name, a full disk and a dead rank all turn into the default value here"
    mend = "catch the type that is expected here, or raise a narrower error from it"

    VALID = """
try:
    import triton
except ImportError:
    triton = None
# ---
try:
    save(p)
except Exception as e:
    raise SaveError(p) from e
# ---
try:
    refresh()
except Exception:
    logger.exception("refresh failed")
# ---
class Handle:
    def __del__(self):
        try:
            self.close()
        except Exception:
            pass
# ---
try:
    item = q.get_nowait()
except queue.Empty:
    item = None
# ---
try:
    run()
except Exception as error:
    self.errors.append(error)
# ---
try:
    run()
except Exception as error:
    result = Failed(str(error))
# ---
try:
    run()
except BaseException:
    cleanup()
    raise
"""
    INVALID = """
try:
    cache.refresh()
except Exception:  # <-
    pass
# ---
try:
    world = dist.get_world_size()
except:  # <-
    world = 1
# ---
def read(p):
    try:
        return open(p).read()
    except (ValueError, Exception):  # <-
        return None
# ---
import contextlib
with contextlib.suppress(Exception):  # <-
    refresh()
# ---
for x in xs:
    try:
        use(x)
    except BaseException:  # <-
        continue
# ---
Wide = Exception
def probe():
    try:
        return run()
    except Wide as error:  # <-
        return False
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for handler in file.index.all(ast.ExceptHandler):
            if self._is_wide(file, handler.type) and not self._says(handler) and not _is_cleanup(handler):
                caught = ast.unparse(handler.type) if handler.type is not None else "everything"
                yield Hit(handler, f"`except` of {caught} ends in silence")
        for call in file.names.calls("contextlib.suppress"):
            if any(self._is_wide(file, arg) for arg in call.args):
                yield Hit(call, f"`{ast.unparse(call)}` ends every error in silence")

    def _is_wide(self, file: File, caught: ast.expr | None) -> bool:
        if caught is None:
            return True
        if isinstance(caught, ast.Tuple):
            return any(self._is_wide(file, item) for item in caught.elts)
        return file.names.resolve(caught) in _WIDE

    def _says(self, handler: ast.ExceptHandler) -> bool:
        """Whether the handler raises, records, or uses the error it caught."""
        for stmt in handler.body:
            for node in walk(stmt):
                if isinstance(node, ast.Raise):
                    return True
                if (
                    handler.name
                    and isinstance(node, ast.Name)
                    and node.id == handler.name
                    and isinstance(node.ctx, ast.Load)
                ):
                    return True
                if isinstance(node, ast.Call) and last_word(node) in _REPORTS:
                    return True
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.ExceptHandler() | m.Call(func=m.Name() | m.Attribute())


def _is_cleanup(handler: ast.ExceptHandler) -> bool:
    """Best effort where nobody can be told: destructors, `atexit`, the traceback machinery."""
    function = function_of(handler)
    if function is None:
        return False
    return function.name in ("__del__", "__repr__", "__exit__", "_cleanup", "close") or function.name.startswith(
        "_safe"
    )
