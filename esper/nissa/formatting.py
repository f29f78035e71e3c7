"""Numbers as people read them."""

import re

_SUFFIXES = ((1e15, 1e15, "P"), (1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
MINUS = "\N{MINUS SIGN}"
_HYPHEN = re.compile(r"(?:^|(?<=[\s\[(,]))-(?=[\d.])")


def compact(value: float) -> str:
    """1030 -> "1,030", 118000 -> "118k", 2.4e6 -> "2.4M"."""
    rounded = float(f"{value:.3g}") if abs(value) >= 1e4 else value
    for limit, scale, suffix in _SUFFIXES:
        if abs(rounded) >= limit:
            return f"{rounded / scale:.3g}{suffix}"
    return f"{value:,.0f}"


def signed(value: float, decimals: int = 1) -> str:
    """+6.9, -0.4, 0.0: a difference, without a sign where it rounds to nothing."""
    rounded = round(value, decimals)
    return f"{rounded:+.{decimals}f}" if rounded else f"{0:.{decimals}f}"


def with_minus(text: str) -> str:
    """The text for a page or a picture: the hyphen before a negative number becomes a minus sign."""
    return _HYPHEN.sub(MINUS, text)


def clock(seconds: float) -> str:
    """151 s -> "2:31", 3 h -> "3:00:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def duration(seconds: float) -> str:
    """151 s -> "2 min 31 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
