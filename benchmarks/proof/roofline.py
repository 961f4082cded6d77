"""The least time a card needs: bytes that have to move, and products that have to be formed."""

from typing import NamedTuple

CHUNK = 64
CARDS = {  # bytes per second, dense bf16 products and sums per second
    "H200": (4.8e12, 989e12),
    "H100 PCIe": (2.0e12, 756e12),
    "H100": (3.35e12, 989e12),
    "A100": (2.04e12, 312e12),
}


class Floor(NamedTuple):
    """Milliseconds by bytes and by products at the peak; None where the card's figures are not known."""

    by_bytes: float | None
    by_products: float | None


def peak_of(card: str) -> tuple[float, float] | None:
    """Figures of a card by the first of the known names in its own."""
    return next((figures for name, figures in CARDS.items() if all(word in card for word in name.split())), None)


def moved(rule: str, count: int, width: int, backward: bool) -> int:
    """Bytes of a call over `count` tokens and heads: bf16 operands once, fp32 coefficients, no saved states.

    Forward q, k, v, y; backward q, k, v, dy, dq, dk, dv. Coefficients: 2 of gated delta, 4 with momentum.
    """
    gates = 4 * {"delta": 2, "titans": 4}[rule]
    return count * ((7 * width * 2 + 2 * gates) if backward else (4 * width * 2 + gates))


def products(rule: str, count: int, width: int, backward: bool) -> int:
    """Products and sums of the chunked form: 10 CD + 6 D^2 + C^2 a token, with momentum 6 D^2 more.

    Backward: twice that, and the forward without its reads once more.
    """
    forward = 10 * CHUNK * width + 6 * width**2 + CHUNK**2 + (6 * width**2 if rule == "titans" else 0)
    if not backward:
        return count * forward
    reads = (4 if rule == "titans" else 2) * width**2 + 2 * CHUNK * width + CHUNK**2
    return count * (3 * forward - reads)


def floor(card: str, rule: str, count: int, width: int, backward: bool) -> Floor:
    """The floors of one call on a card."""
    peak = peak_of(card)
    if peak is None:
        return Floor(None, None)
    bytes_s, products_s = peak
    return Floor(
        1e3 * moved(rule, count, width, backward) / bytes_s, 1e3 * products(rule, count, width, backward) / products_s
    )
