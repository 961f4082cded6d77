"""Shapes in signatures: `Float[Tensor, "B H T K"]`, with one alphabet for the whole project.

B batch, H heads, T tokens, C tokens in a chunk, N chunks, K key width, V value width, M slots,
D model width, W attention window, P persistent tokens. Annotations are for readers and tools;
nothing is checked at run time.
"""

from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
else:

    class _Shaped:
        def __class_getitem__(cls, item: tuple[type, str]) -> Any:
            return Annotated[item]

    Float = Int = Bool = _Shaped

__all__ = ["Bool", "Float", "Int", "Tensor"]
