"""The first two pictures of a run's report as one SVG: `python scripts/report_picture.py RUN FILE.svg`."""

import re
import sys
from pathlib import Path

GAP_PIXELS = 20


def picture(page: str) -> str:
    """Side by side, in the page's light colours, on white."""
    colours = dict(re.findall(r"--(\w+): (#\w+);", page[: page.index("@media")]))
    found = re.findall(r"<svg role=\"img\".*?</svg>", page, flags=re.S)[:2]
    sizes = [tuple(map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())) for svg in found]
    bodies = [re.sub(r"^<svg[^>]*>|</svg>$", "", svg) for svg in found]
    width, height = sum(wide for wide, _ in sizes) + GAP_PIXELS, max(high for _, high in sizes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    parts = [
        f'{head} font-size="11" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="{colours["card"]}"/>',
        f"<g>{bodies[0]}</g>",
        f'<g transform="translate({sizes[0][0] + GAP_PIXELS} 0)">{bodies[1]}</g>',
        "</svg>",
    ]
    return re.sub(r"var\(--(\w+)\)", lambda name: colours[name[1]], "\n".join(parts)) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture((Path(sys.argv[1]) / "report.html").read_text()))
