"""Options that need another one beside them."""

PARTNERS = {"transformer": ["task=pysource"], "pysource": ["host=transformer"], "text": ["host=transformer"]}


def chosen(group: str, option: str) -> list[str]:
    """Overrides that choose this option, and what it cannot be without."""
    return [*PARTNERS.get(option, []), f"{group}={option}"]
