"""Options that need another one beside them."""

from tests.networks import CHOSEN

PARTNERS = {
    "decoder": ["task=pysource"],
    "transformer": ["task=pysource"],
    "corpus": ["host=decoder"],
    "pysource": ["host=transformer"],
    "text": ["host=transformer", f"task.path={__file__}"],
}


def chosen(group: str, option: str) -> list[str]:
    """Overrides that choose this option, and what it cannot be without."""
    if option == "custom":
        return [*CHOSEN, "slots=early_late"]
    return [*PARTNERS.get(option, []), f"{group}={option}"]
