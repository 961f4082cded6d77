"""Which level a parameter belongs to."""

from collections.abc import Iterable

from torch import Tensor, nn

from hecate_core.errors import CompositionError

NamedParameters = nn.Module | Iterable[tuple[str, Tensor]]


def level_of_parameters(model: nn.Module) -> dict[str, int | None]:
    """The level that owns each parameter, by the names of `model.named_parameters()`.

    The nearest enclosing module with an integer `hecate_level` decides; None means that the
    parameter is updated every step. Raises CompositionError for a parameter shared by two levels.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    levels: dict[str, int | None] = {}

    def walk(module: nn.Module, level: int | None) -> None:
        level = getattr(module, "hecate_level", level)
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            name = names[id(parameter)]
            if levels.setdefault(name, level) != level:
                raise CompositionError(
                    f"{name}: shared by level {levels[name]} and level {level}; a parameter belongs to one level"
                )
        for child in module.children():
            walk(child, level)

    walk(model, None)
    return {name: levels[name] for name in names.values()}
