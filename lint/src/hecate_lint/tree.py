"""From an `ast` node to the libcst node that stands at the same place, and to its exact characters.

libcst parses only the top-level statements that hold a nomination, and positions are taken from the code that
libcst generates for the one statement around the node: on a large corpus whole-file metadata costs twenty times
the parse. Imported only when a file has a candidate, because libcst alone takes 0.1 s to import.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import libcst as cst
from libcst._nodes.internal import CodegenState
from libcst.metadata.position_provider import PositionProvidingCodegenState

from hecate_lint.index import parent, statement
from hecate_lint.source import Source

# ast class name -> libcst class names that write the same thing
_SAME = {
    "Constant": ("SimpleString", "ConcatenatedString", "Integer", "Float", "Imaginary", "Name", "Ellipsis"),
    "JoinedStr": ("FormattedString", "ConcatenatedString"),
    "BinOp": ("BinaryOperation",),
    "BoolOp": ("BooleanOperation",),
    "UnaryOp": ("UnaryOperation",),
    "Compare": ("Comparison",),
    "GeneratorExp": ("GeneratorExp",),
    "Starred": ("StarredElement", "Arg"),
    "keyword": ("Arg",),
    "alias": ("ImportAlias",),
    "arg": ("Param",),
    "NamedExpr": ("NamedExpr",),
    "ListComp": ("ListComp",),
    "AsyncFunctionDef": ("FunctionDef",),
    "AsyncFor": ("For",),
    "AsyncWith": ("With",),
    "TryStar": ("TryStar",),
}

_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
Place = tuple[int, int, int, int]  # line, column, end line, end column; lines from 1, columns from 0, end open


@dataclass
class _Positions:
    """What libcst's position-recording code generator calls its provider."""

    _computed: dict[cst.CSTNode, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spot:
    """A libcst node with its place in the file and the module that was parsed around it."""

    node: cst.CSTNode
    place: Place
    indent: str
    newline: str
    node_place: Place  # without the parentheses that `place` may take in

    def code(self, node: cst.CSTNode) -> str:
        """The code of a node that shall stand here, without its own parentheses."""
        state = CodegenState("    ", self.newline, indent_tokens=[self.indent])
        bare = node.with_changes(lpar=(), rpar=()) if hasattr(node, "lpar") else node
        bare._codegen(state)
        return "".join(state.tokens)


_CLAUSES = (cst.ExceptHandler, cst.ExceptStarHandler, cst.MatchCase)


class Tree:
    """The libcst side of one file, parsed piece by piece on demand."""

    def __init__(self, source: Source, module: ast.Module):
        self._source = source
        self._chunks = _chunks(module)
        self._parsed: dict[int, cst.Module] = {}
        self._marked: dict[cst.CSTNode, dict[cst.CSTNode, Any]] = {}

    def find(self, node: ast.AST) -> Spot | None:
        """The libcst node of the same kind at the same characters; None when there is no such node."""
        outer = statement(node)
        if outer is None:
            return None
        path = _path(outer)
        chunk = self._chunk(path[0][1])
        if chunk is None:
            return None
        first, module = chunk
        held = _descend(module, [("body", path[0][1] - first), *path[1:]])
        if held is None:
            return None
        if outer is node:
            return self._spot(held, self._place(node), outer, module)
        marks = self._marks(held, outer)
        want = self._place(node)
        kinds = _SAME.get(node.__class__.__name__, (node.__class__.__name__,))
        for kind in kinds:
            for found, place in marks.items():
                if found.__class__.__name__ == kind and place == want:
                    return self._spot(found, place, outer, module)
        # The two trees count some parentheses differently: accept one that starts or ends where it should, and take
        # the parentheses of a tuple or generator in, as `ast` does.
        best: Spot | None = None
        for found, place in marks.items():
            loose = isinstance(found, (cst.GeneratorExp, cst.Tuple))
            meets = place[:2] == want[:2] or place[2:] == want[2:] or loose
            if found.__class__.__name__ in kinds and meets and want[:2] <= place[:2] and place[2:] <= want[2:]:
                if best is None or place[:2] <= best.node_place[:2]:
                    best = self._spot(found, want if loose else place, outer, module, place)
        return best

    def _spot(
        self, node: cst.CSTNode, place: Place, outer: ast.AST, module: cst.Module, own: Place | None = None
    ) -> Spot:
        return Spot(node, place, self._indent(outer), module.default_newline, own or place)

    def _indent(self, outer: ast.AST) -> str:
        """The white space before the lines of the block that a statement stands in."""
        at: ast.AST | None = outer
        while at is not None and not isinstance(at, ast.Module):
            above = parent(at)
            first = next((b[0] for n in _BLOCKS if isinstance(b := getattr(above, n, None), list) and at in b), at)
            if isinstance(first, (ast.stmt, ast.ExceptHandler)):
                line = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))])
                text = self._source.line(line)
                before = text[: len(text) - len(text.lstrip(" \t\f"))]
                if self._source.column(first.lineno, first.col_offset) == len(before):
                    return before
            at = above
        return ""

    def _place(self, node: ast.AST) -> Place:
        start = (node.lineno, self._source.column(node.lineno, node.col_offset))  # type: ignore[attr-defined]
        end = (node.end_lineno, self._source.column(node.end_lineno, node.end_col_offset))  # type: ignore[attr-defined]
        return (*start, *end)

    def _chunk(self, position: int) -> tuple[int, cst.Module] | None:
        """The index of the first statement of the chunk around top-level statement `position`, and its tree."""
        first, start, end = self._chunks[position]
        if first not in self._parsed:
            text = self._source.slice_lines(start, end)
            config = cst.PartialParserConfig(python_version="3.11")
            try:
                self._parsed[first] = cst.parse_module(text, config)
            except cst.ParserSyntaxError:
                return None
        return first, self._parsed[first]

    def _marks(self, held: cst.CSTNode, outer: ast.AST) -> dict[cst.CSTNode, Any]:
        if held not in self._marked:
            positions = _Positions()
            line, column = outer.lineno, self._source.column(outer.lineno, outer.col_offset)  # type: ignore[attr-defined]
            state = PositionProvidingCodegenState("    ", "\n", positions)  # type: ignore[arg-type]
            bare, skipped = _header(held)
            for decorator in getattr(outer, "decorator_list", ()):
                line = min(line, decorator.lineno)
            state.line, state.column = line - skipped, 0
            state.indent_tokens.append(self._indent(outer))
            if not isinstance(held, (cst.BaseCompoundStatement, *_CLAUSES)):
                state.column = column
            if isinstance(held, cst.If) and self._source.line(outer.lineno)[column:].startswith("elif"):  # type: ignore[attr-defined]
                bare._codegen(state, is_elif=True)
            else:
                bare._codegen(state)
            self._marked[held] = {
                node: (at.start.line, at.start.column, at.end.line, at.end.column)
                for node, at in positions._computed.items()
            }
        return self._marked[held]


def _header(held: cst.CSTNode) -> tuple[cst.CSTNode, int]:
    """The statement with an empty body (children of its header keep their identity), and its leading lines."""
    skipped = len(getattr(held, "leading_lines", ()))
    empty = cst.SimpleStatementSuite([cst.Pass()])
    changes: dict[str, Any] = {}
    if isinstance(held, (cst.If, cst.For, cst.While)):
        changes = {"body": empty, "orelse": None}
    elif isinstance(held, (cst.With, cst.FunctionDef, cst.ClassDef, *_CLAUSES)):
        changes = {"body": empty}
    return (held.with_changes(**changes) if changes else held), skipped


def _chunks(module: ast.Module) -> list[tuple[int, int, int]]:
    """Per top-level statement: index of the first statement on its lines, first and last line of that group."""
    spans: list[list[int]] = []
    for number, stmt in enumerate(module.body):
        start = min([stmt.lineno, *(d.lineno for d in getattr(stmt, "decorator_list", ()))])
        if spans and start <= spans[-1][2]:
            spans[-1][2] = max(spans[-1][2], stmt.end_lineno or start)
            spans[-1][3] = number
        else:
            spans.append([number, start, stmt.end_lineno or start, number])
    return [(first, start, end) for first, start, end, last in spans for _ in range(first, last + 1)]


def _path(outer: ast.AST) -> list[tuple[str, int]]:
    """Fields and positions that lead from the module to a statement."""
    steps: list[tuple[str, int]] = []
    at: ast.AST = outer
    above = parent(at)
    while above is not None:
        for name in _BLOCKS:
            block = getattr(above, name, None)
            if isinstance(block, list) and any(item is at for item in block):
                steps.append((name, next(n for n, item in enumerate(block) if item is at)))
                break
        at, above = above, parent(above)
    return steps[::-1]


def _descend(module: cst.Module, path: Sequence[tuple[str, int]]) -> cst.CSTNode | None:
    at: cst.CSTNode = module
    for name, number in path:
        block = list(_block(at, name))
        if number >= len(block):
            return None
        at = block[number]
    return at


def _block(node: cst.CSTNode, name: str) -> Iterator[cst.CSTNode]:
    if name in ("handlers", "cases"):
        yield from getattr(node, name)
        return
    held = getattr(node, name, None)
    if name == "orelse" and isinstance(held, cst.If):
        yield held
        return
    if isinstance(held, (cst.Else, cst.Finally)):
        held = held.body
    if isinstance(held, cst.BaseSuite):
        held = held.body
    for item in held or ():
        if isinstance(item, cst.SimpleStatementLine):
            yield from item.body
        else:
            yield item
