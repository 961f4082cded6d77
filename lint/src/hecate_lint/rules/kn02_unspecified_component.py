"""KN-02: something registered that no specification describes."""

import ast
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import FUNCTIONS, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark

_DECORATORS = frozenset(
    f"register_{kind}" for kind in "rule retention bias algorithm composition schedule strategy structure unit".split()
)
_REGISTRIES = frozenset("rules retentions biases algorithms compositions pairs schedules strategies structures".split())
SPECIFIED = frozenset("rule structure bias retention algorithm strategy composition optimizer".split())


class UnspecifiedComponent(Rule):
    """A rule, retention, bias, algorithm, strategy or composition is registered and has no specification.

    SMELL. `@register_rule("delta")` without `spec=`; an entry of `hecate_components` for which no Markdown file
    has a CONTRACT block of that kind and name; a `spec` path that leads nowhere; a CONTRACT block that is not
    TOML.

    WHY. Without the equations nobody can say whether code, kernel and paper mean the same thing, and the
    conformance kit has nothing to compare with.

    FIX. Write `specs/<kind>s/<name>.md` with a CONTRACT block, equations and a worked example.

    TRACE. Kernel rule KN-02.
    """

    id = "KN-02"
    name = "unspecified-component"
    group = "kernels"
    severity = "error"
    why = "without its equations nobody can say whether code, kernel and paper mean the same thing"
    mend = "write a spec with a CONTRACT block, equations and a worked example, and name it"

    VALID = """
@register_rule("delta", spec="specs/rules/delta.md")
class Delta(MemoryRule): ...
# ---
registry.colours.add("red", Red)
# ---
@register_rule("trial", experimental=True)
class Trial(MemoryRule): ...
# ---
@register_rule("delta")
class Delta(MemoryRule):
    spec = "rules/delta.md"
# ---
registry.rules.add("oja", Oja, spec="rules/oja.md")
# ---
@register_buffer("x")
def f(): ...
"""
    INVALID = """
@register_rule("delta")  # <-
class Delta(MemoryRule): ...
# ---
registry.rules.add("oja", Oja)  # <-
# ---
from mine import register_retention as rr
@api.register_retention("soft")  # <-
def soft(): ...
# ---
registry.algorithms.register("muon", Muon)  # <-
# ---
@register_composition("mag", experimental=False)  # <-
class Mag: ...
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for function in [*file.index.all(ast.ClassDef), *file.index.functions]:
            for decorator in function.decorator_list:
                if last_word(decorator) in _DECORATORS and isinstance(decorator, ast.Call):
                    given = arguments(decorator)
                    if (
                        "spec" not in given
                        and constant(given.get("experimental")) is not True
                        and not _has_spec(function)
                    ):
                        yield Hit(decorator, f"`{function.name}` is registered without a spec")
        for node in file.index.word("add", "register"):
            call = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(call, ast.Call) and call.func is node:
                owner = node.value
                if (
                    isinstance(owner, ast.Attribute)
                    and owner.attr in _REGISTRIES
                    and last_word(owner.value) == "registry"
                ):
                    if "spec" not in arguments(call) and len(call.args) >= 2:
                        yield Hit(call, f"`{ast.unparse(call.args[1])}` is registered without a spec", "likely")

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Registrations without a spec, and specs that cannot be read."""
        from hecate_lint.conformance.project import Remark

        for spec in project.specs:
            if spec.problem:
                yield Remark(spec.path, spec.line, spec.problem)
        for one in project.registrations:
            if one.kind not in SPECIFIED or project.find_spec(one.kind, one.name) is not None:
                continue
            found = project.component(one)
            said = _named_spec(found[1]) if found is not None else ""
            if said and self._exists(project, one, said):
                message = f'spec "{said}" of {one.kind} "{one.name}" has no CONTRACT block for it'
            elif said:
                message = f'{one.kind} "{one.name}" names the spec "{said}", which does not exist'
            else:
                message = f'{one.kind} "{one.name}" is registered without a spec'
            yield one.file, Hit(one.node, message)

    def _exists(self, project: "Project", one: Any, said: str) -> bool:
        package = one.module.split(".")[0]
        folders = [os.path.join(project.root, name) for name in project.settings.specs]
        folders += [os.path.join(root, package, "specs") for root in project.roots]
        return any(os.path.isfile(os.path.join(folder, said)) for folder in folders)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.Tuple()


def _has_spec(node: Any) -> bool:
    return isinstance(node, ast.ClassDef) and bool(_named_spec(node))


def _named_spec(node: Any) -> str:
    """The spec path that a class attribute or a `spec=` keyword of a preset names."""
    for item in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(item, (ast.Assign, ast.AnnAssign)):
            target = item.targets[0] if isinstance(item, ast.Assign) else item.target
            if last_word(target) == "spec" and isinstance(constant(item.value), str):
                return str(constant(item.value))
    if isinstance(node, FUNCTIONS):
        for at in walk(node):
            if isinstance(at, ast.keyword) and at.arg == "spec" and isinstance(constant(at.value), str):
                return str(constant(at.value))
    return ""
