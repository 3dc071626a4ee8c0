"""Numbers and texts as people read them."""

import re
from collections.abc import Sequence

from markupsafe import Markup, escape


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction as `94.3 %`, with a space that does not break."""
    return f"{100 * fraction:.{decimals}f}\u00a0%"


def quantity(number: float) -> str:
    """A count with its thousands marked, `113,796`."""
    return f"{number:,.0f}"


def first_of(words: Sequence[str], rest: str, *, most: int = 12) -> str:
    """All of a few words; of many the first ones, with the place where the rest is found."""
    more = f" and {quantity(len(words) - most)} more ({rest})" if len(words) > most else ""
    return " ".join(words[:most]) + more


def code_spans(text: str) -> Markup:
    """Escape a text for HTML; what it sets between backticks becomes code."""
    parts = re.split(r"`([^`]+)`", text)  # every second part stood between backticks
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )
