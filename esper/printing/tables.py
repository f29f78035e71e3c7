"""rich, without anything in what it shows that a terminal would act on."""

from collections.abc import Iterable
from typing import Any, TextIO, cast

import rich.console
import rich.text
from rich.segment import Segment

from esper.errors import printable
from esper.printing.streams import Output, output

WIDE = 160
UNBOUNDED = 10_000  # cells


class Text(rich.text.Text):
    """Printable text on one line."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(printable(text), *args, **options)

    def append(self, text: Any, style: Any = None) -> "Text":
        """Put more behind it."""
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self


class Console(rich.console.Console):
    """Shows strings as they are: no markup, no emoji, nothing highlighted.

    Args: is_error: on the error stream; file: elsewhere; width_of_file: of lines that no terminal shows.
    """

    def __init__(
        self, is_error: bool = False, file: TextIO | None = None, width_of_file: int = WIDE, **options: Any
    ) -> None:
        stream = output(is_error) if file is None else Output(file)
        # In a notebook rich would show each print as a block of its own, whatever file it is for.
        plain = {"highlight": False, "markup": False, "emoji": False, "force_jupyter": False}
        super().__init__(file=cast(TextIO, stream), **{**plain, **options})
        if not self.is_terminal:
            self.width = width_of_file

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """As rich does, of the text without what a terminal would act on."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """As rich does; text that got past `Text` and `render_str`, in a part of rich's own, is spelled out here."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control or text.isprintable() or text == "\n":
                yield segment
            else:
                yield Segment("\n".join(map(printable, text.split("\n"))), style)
