"""From an `ast` node to the libcst node that stands at the same place, and to its exact characters.

libcst parses only the statements that hold a nomination (of a compound statement its header), and positions are
taken from the code that libcst generates for that one statement: on a large corpus whole-file metadata costs
twenty times the parse. Imported only when a file has a candidate, because libcst alone takes 0.1 s to import.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import libcst as cst
from libcst._nodes.internal import CodegenState
from libcst.metadata.position_provider import PositionProvidingCodegenState

from hecate_lint.index import FUNCTIONS, parent, statement, walk
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

_COMPOUND = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.ClassDef),
    *(*FUNCTIONS, ast.ExceptHandler),
)
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
HUGE = 400  # lines of a simple statement whose expressions are parsed one by one
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
    """The libcst side of one file, parsed statement by statement on demand."""

    def __init__(self, source: Source):
        self._source = source
        self._parsed: dict[tuple[int, int, str], cst.Module | None] = {}
        self._marked: dict[cst.CSTNode, dict[cst.CSTNode, Any]] = {}
        self._by_place: dict[cst.CSTNode, dict[Place, list[cst.CSTNode]]] = {}

    def find(self, node: ast.AST) -> Spot | None:
        """The libcst node of the same kind at the same characters; None when there is no such node."""
        outer = statement(node)
        if outer is None:
            return None
        if isinstance(node, ast.expr) and self._is_huge(outer):
            return self._alone(node, outer)
        found = self._statement(outer)
        if found is None:
            return None
        held, newline = found
        if outer is node:
            place = self._place(node)
            return Spot(held, place, self._indent(outer), newline, place)
        marks = self._marks(held, outer)
        want = self._place(node)
        kinds = _SAME.get(node.__class__.__name__, (node.__class__.__name__,))
        exact = [other for other in self._by_place[held].get(want, ()) if other.__class__.__name__ in kinds]
        if exact:
            return Spot(
                min(exact, key=lambda n: kinds.index(n.__class__.__name__)), want, self._indent(outer), newline, want
            )
        # The two trees count some parentheses differently: accept one that starts or ends where it should, and take
        # the parentheses of a tuple or generator in, as `ast` does.
        best: Spot | None = None
        for other, place in marks.items():
            loose = isinstance(other, (cst.GeneratorExp, cst.Tuple))
            meets = place[:2] == want[:2] or place[2:] == want[2:] or loose
            if other.__class__.__name__ in kinds and meets and want[:2] <= place[:2] and place[2:] <= want[2:]:
                if best is None or place[:2] <= best.node_place[:2]:
                    best = Spot(other, want if loose else place, self._indent(outer), newline, place)
        return best

    def _is_huge(self, outer: Any) -> bool:
        """Whether a simple statement is so long (a generated table) that its whole tree would cost too much."""
        return (
            isinstance(outer, ast.stmt)
            and not isinstance(outer, _COMPOUND)
            and (outer.end_lineno or 0) - outer.lineno > HUGE
        )

    def _alone(self, node: ast.expr, outer: ast.AST) -> Spot | None:
        """An expression of a huge statement, parsed alone from its own characters."""
        place = self._place(node)
        text = self._source.text[self._source.offset(*place[:2]) : self._source.offset(*place[2:])]
        try:
            held = cst.parse_expression(text, cst.PartialParserConfig(python_version="3.11"))
        except cst.ParserSyntaxError:
            return None
        kinds = _SAME.get(node.__class__.__name__, (node.__class__.__name__,))
        return Spot(held, place, self._indent(outer), "\n", place) if held.__class__.__name__ in kinds else None

    def _statement(self, outer: ast.AST) -> tuple[cst.CSTNode, str] | None:
        """The libcst statement for an `ast` one, parsed with as little around it as the grammar allows."""
        unit, steps = outer, list[tuple[str, int]]()
        group = _group(unit)
        while self._source.line(group[0]).encode("utf-8", "replace")[: group[2]].strip():
            above = parent(unit)  # `if x: a; b` on one line: the line belongs to the statement around it
            if above is None or isinstance(above, ast.Module):
                return None
            steps.insert(0, _step(unit, above))
            unit = above
            group = _group(unit)
        first, last, indent, position = group
        if steps:
            last = max(last, unit.end_lineno or last)  # type: ignore[attr-defined]
        before, depth = _scaffold(unit, indent, self._source.line(unit.lineno))  # type: ignore[attr-defined]
        body = "" if steps else _short_body(unit)
        if body:
            last = unit.body[0].lineno - 1  # type: ignore[attr-defined]
            last = min([last, *(d.lineno - 1 for d in getattr(unit.body[0], "decorator_list", ()))])  # type: ignore[attr-defined]
            body = self._source.line(first)[: self._source.column(first, indent)] + body
        module = self._parse(first, last, before, body)
        if module is None:
            return None
        at = _descend(module, [*depth, ("body", position)] if not depth or depth[-1][0] == "body" else depth)
        held = _descend(at, steps) if at is not None else None
        return (held, module.default_newline) if held is not None else None

    def _parse(self, first: int, last: int, before: str, body: str) -> cst.Module | None:
        key = (first, last, before + body)
        if key not in self._parsed:
            text = self._source.slice_lines(first, last)
            if body and not text.endswith(("\n", "\r")):
                text += "\n"
            newline = "\r\n" if text.endswith("\r\n") else text[-1:] if text.endswith(("\n", "\r")) else "\n"
            whole = (before + "\0" + body).replace("\n", newline).replace("\0", text, 1)
            try:
                self._parsed[key] = cst.parse_module(whole, cst.PartialParserConfig(python_version="3.11"))
            except cst.ParserSyntaxError:
                self._parsed[key] = None
        return self._parsed[key]

    def _indent(self, outer: ast.AST) -> str:
        """The white space before the lines of the block that a statement stands in."""
        at: ast.AST | None = outer
        while at is not None and not isinstance(at, ast.Module):
            line, _, column, _ = _group(at)
            text = self._source.line(line)
            before = text[: len(text) - len(text.lstrip(" \t\f"))]
            if self._source.column(line, column) == len(before):
                return before
            at = parent(at)
        return ""

    def _place(self, node: ast.AST) -> Place:
        start = (node.lineno, self._source.column(node.lineno, node.col_offset))  # type: ignore[attr-defined]
        end = (node.end_lineno, self._source.column(node.end_lineno, node.end_col_offset))  # type: ignore[attr-defined]
        return (*start, *end)

    def _marks(self, held: cst.CSTNode, outer: Any) -> dict[cst.CSTNode, Any]:
        if held not in self._marked:
            positions = _Positions()
            state = PositionProvidingCodegenState("    ", "\n", positions)  # type: ignore[arg-type]
            bare, skipped = _header(held)
            line = min([outer.lineno, *(d.lineno for d in getattr(outer, "decorator_list", ()))])
            state.line, state.column = line - skipped, 0
            state.indent_tokens.append(self._indent(outer))
            if not isinstance(held, (cst.BaseCompoundStatement, *_CLAUSES)):
                state.column = self._source.column(outer.lineno, outer.col_offset)
            if isinstance(held, cst.If) and _is_elif(self._source.line(outer.lineno), outer.col_offset):
                bare._codegen(state, is_elif=True)
            else:
                bare._codegen(state)
            self._marked[held] = marks = {
                node: (at.start.line, at.start.column, at.end.line, at.end.column)
                for node, at in positions._computed.items()
            }
            index: dict[Place, list[cst.CSTNode]] = {}
            for node, place in marks.items():
                index.setdefault(place, []).append(node)
            self._by_place[held] = index
        return self._marked[held]


def _is_elif(line: str, column: int) -> bool:
    return line.encode("utf-8", "replace")[column : column + 4] == b"elif"


def _group(node: Any) -> tuple[int, int, int, int]:
    """Lines of the statements that share lines with this one, their byte column, and its place among them."""
    above = parent(node)
    block: list[Any] = next(
        (b for n in _BLOCKS if isinstance(b := getattr(above, n, None), list) and any(item is node for item in b)),
        [node],
    )
    at = next(n for n, item in enumerate(block) if item is node)
    first = at
    while first and (block[first - 1].end_lineno or 0) >= _start(block[first]):
        first -= 1
    last = at
    while last + 1 < len(block) and _start(block[last + 1]) <= (block[last].end_lineno or 0):
        last += 1
    end = block[last].end_lineno if hasattr(block[last], "end_lineno") else block[last].body[-1].end_lineno
    column = block[first].col_offset if hasattr(block[first], "col_offset") else 0
    return _start(block[first]), end, column, at - first


def _start(node: Any) -> int:
    line: int = node.lineno if hasattr(node, "lineno") else node.pattern.lineno
    decorators: list[int] = [d.lineno for d in getattr(node, "decorator_list", ())]
    return min([line, *decorators])


def _scaffold(unit: ast.AST, column: int, line: str) -> tuple[str, list[tuple[str, int]]]:
    """What must stand before a statement so that it parses alone, and the way to it in that tree."""
    before, path = ("if 1:\n", [("body", 0)]) if column else ("", [])
    pad = " " * column if line[:1] != "\t" else line[: len(line) - len(line.lstrip())]
    if isinstance(unit, ast.ExceptHandler):
        return f"{before}{pad}try: pass\n", [*path, ("body", 0), ("handlers", 0)]
    if isinstance(unit, ast.match_case):
        return "match 1:\n", [("body", 0), ("cases", 0)]
    if isinstance(unit, ast.If) and _is_elif(line, column):
        return f"{before}{pad}if 1: pass\n", [*path, ("body", 0), ("orelse", 0)]
    return before, path


def _short_body(unit: Any) -> str:
    """A body to put in place of the real one, where that starts on a line of its own."""
    if not isinstance(unit, _COMPOUND) or not unit.body:
        return ""
    first = _start(unit.body[0])
    header = max([unit.lineno, *(n.end_lineno for n in _header_nodes(unit))])
    return " pass\n" if first > header else ""


def _header_nodes(unit: Any) -> list[Any]:
    found = []
    for name in ("test", "target", "iter", "type", "returns"):
        value = getattr(unit, name, None)
        if isinstance(value, ast.AST):
            found.append(value)
    for name in ("items", "bases", "keywords"):
        found += [getattr(item, "context_expr", item) for item in getattr(unit, name, ())]
    if isinstance(unit, FUNCTIONS):
        found += [n for n in walk(unit.args) if hasattr(n, "end_lineno")]
    return found


def _step(node: ast.AST, above: ast.AST) -> tuple[str, int]:
    """The field and position at which a node stands in the one above it."""
    for name in _BLOCKS:
        block = getattr(above, name, None)
        if isinstance(block, list):
            for number, item in enumerate(block):
                if item is node:
                    return name, number
    return "body", 0


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


def _descend(start: cst.CSTNode, path: Sequence[tuple[str, int]]) -> cst.CSTNode | None:
    at = start
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
