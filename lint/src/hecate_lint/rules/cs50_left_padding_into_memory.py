"""CS-50: a run of pad tokens before the text."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant, split_words
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, strings_in, words_in

_PAD = Pattern(r"(^|_)(pad|eos|bos)(_|$|token|id)|^pad")
_MAKERS = frozenset("full new_full full_like fill".split())
_OTHER = frozenset(  # what is padded beside the ids, and is no input of the memory
    "label labels type types box bbox mask masks position positions segment xpath tags subs entity attention".split()
)
_MEMORY = frozenset("memory recurrent titans mamba rwkv state lmm ssm".split())


class LeftPaddingIntoMemory(Rule):
    """Special tokens are put before the input of a model that reads from left to right.

    SMELL. `[pad] * n + ids`, `F.pad(ids, (n, 0), value=pad)`, `torch.cat([full(..., pad), ids])`,
    `tokenizer.padding_side = "left"`.

    WHY. A memory writes what it reads: n equal tokens drive it along one key n times before the text begins,
    and small constants grow into large ones. An attention mask does not reach the memory.

    FIX. Pad on the right, or give the memory a write mask.

    TRACE. Catalogue smell CS-50; runtime check: n identical tokens for n up to the context stay finite.
    """

    id = "CS-50"
    name = "left-padding-into-memory"
    group = "core"
    severity = "warn"
    why = "a memory writes what it reads: n equal tokens before the text drive it along one key n times"
    mend = "pad on the right, or give the memory a write mask"

    VALID = """
ids = prompt + [tok.pad_token_id] * (seq - len(prompt))
# ---
x = F.pad(hidden, (kernel - 1, 0))
# ---
tok.padding_side = "right"
# ---
ids = torch.cat([ids, torch.full((n,), pad_id)])
# ---
ids = torch.cat((torch.full((batch, 1), bos_id), ids), dim=1)
# ---
line = ["-"] * 8 + cells
shape = [1] * n + list(x.shape)
# ---
ids = F.pad(ids, (0, n), value=pad_id)
# ---
batch["labels"] = [tok.pad_token_label] * n + batch["labels"]
batch["bbox"] = [pad_token] * n + batch["bbox"]
# ---
before = F.pad(ids[:, :-1], (1, 0), value=tok.pad_token_id)
codes = F.pad(codes, (num_bos_tokens, 0), value=bos_id)
"""
    INVALID = """
ids = [tok.pad_token_id] * (seq - len(prompt)) + prompt  # <-
# ---
tok.padding_side = "left"  # <-
# ---
ids = F.pad(ids, (n, 0), value=pad_id)  # <-
# ---
ids = torch.cat([torch.full((n,), tok.eos_token_id), ids])  # <-
# ---
tok = AutoTokenizer.from_pretrained(name, padding_side="left")  # <-
# ---
batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left", padding_value=pad_id)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        sure_memory = bool({part for word in file.index.words for part in split_words(word)} & _MEMORY)
        severity = "error" if sure_memory and {"memory", "titans"} & file.index.words else None
        for node in file.index.all(ast.BinOp):
            if isinstance(node.op, ast.Add) and _is_pads(node.left) and not _is_pads(node.right) and _are_ids(node):
                yield Hit(node, "pad tokens are put before the ids", "likely", severity)
        for call in file.names.calls("torch.nn.functional.pad"):
            if _pads_left(call):
                yield Hit(call, "the ids are padded on the left", "likely", severity)
        for call in file.names.calls("torch.cat", "torch.concat", "torch.hstack"):
            if call.args and isinstance(call.args[0], (ast.List, ast.Tuple)) and len(call.args[0].elts) > 1:
                first = call.args[0].elts[0]
                if (
                    isinstance(first, ast.Call)
                    and last_word(first) in _MAKERS
                    and _says_pad(first)
                    and not _is_one(first)
                ):
                    yield Hit(call, "a run of pad tokens is put before the ids", "likely", severity)
        yield from self._sides(file, severity)

    def _sides(self, file: File, severity: Any) -> Iterator[Hit]:
        for node in file.index.word("padding_side"):
            above = parent(node)
            if not (isinstance(node, ast.Attribute) and isinstance(above, ast.Assign) and node in above.targets):
                continue
            if constant(above.value) == "left":
                yield Hit(above, "the tokenizer pads on the left", "likely", severity)
        for keyword in file.index.all(ast.keyword):
            call = parent(keyword)
            if keyword.arg == "padding_side" and constant(keyword.value) == "left" and _pads_ids(call):
                yield Hit(keyword, "padding is put on the left", "likely", severity)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.BinaryOperation(operator=m.Add()) | m.Call() | m.Assign() | m.Arg(keyword=m.Name("padding_side"))


def _pads_ids(call: ast.AST | None) -> bool:
    """Whether a call with `padding_side="left"` pads token ids: a tokenizer, or a padding value that says so."""
    if not isinstance(call, ast.Call):
        return False
    value = arguments(call).get("padding_value")
    if value is not None:
        return _says_pad(value)
    return (
        bool({"tokenizer", "tok", "processor", "pretrained"} & set(split_words(last_word(call))))
        or last_word(call) == "processing_class"
    )


def _is_one(call: ast.Call) -> bool:
    """Whether a `full((batch, 1), bos)` makes the one token that starts a text, which is no padding."""
    shape = call.args[0] if call.args else None
    return isinstance(shape, (ast.Tuple, ast.List)) and bool(shape.elts) and constant(shape.elts[-1]) == 1


def _says_pad(node: ast.AST) -> bool:
    return any(_PAD.search(word) and not _OTHER & set(split_words(word)) for word in words_in(node))


def _are_ids(node: ast.BinOp) -> bool:
    """Whether nothing says that what stands behind the pads is a label, a mask or a box."""
    said = words_in(node.right) | set(strings_in(node.right))
    return not any(_OTHER & set(split_words(word)) for word in said)


def _says_begin(value: ast.AST) -> bool:
    return any("bos" in split_words(word) for word in words_in(value))


def _is_pads(node: ast.AST) -> bool:
    """`[pad] * n`."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    listed = node.left if isinstance(node.left, ast.List) else node.right
    return isinstance(listed, ast.List) and len(listed.elts) == 1 and _says_pad(listed.elts[0])


def _pads_left(call: ast.Call) -> bool:
    given = arguments(call)
    widths = call.args[1] if len(call.args) > 1 else given.get("pad")
    value = call.args[3] if len(call.args) > 3 else given.get("value")
    if not isinstance(widths, (ast.Tuple, ast.List)) or len(widths.elts) != 2 or value is None:
        return False
    if _says_begin(value) and not any(isinstance(n, ast.Sub) for n in ast.walk(widths.elts[0])):
        return False  # the tokens that start a text
    return constant(widths.elts[0]) not in (0, 1) and constant(widths.elts[1]) == 0 and _says_pad(value)
