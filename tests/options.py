"""Options that need another one beside them."""

from tests.networks import CHOSEN
from tests.own_data import NEEDED

PARTNERS = {
    "decoder": ["task=pysource"],
    "transformer": ["task=pysource"],
    "corpus": ["host=decoder"],
    "pysource": ["host=transformer"],
    "text": ["host=transformer", f"task.path={__file__}"],
    "diabetes": ["host=mlp"],
    "table": ["host=mlp", *NEEDED["table"]],
    "images": NEEDED["images"],
    "arrays": NEEDED["arrays"],
}


def chosen(group: str, option: str) -> list[str]:
    """Overrides that choose this option, and what it cannot be without."""
    if (group, option) == ("host", "custom"):
        return [*CHOSEN, "slots=early_late"]
    if option == "custom":
        return ["task=custom", *NEEDED["custom"]]
    return [*PARTNERS.get(option, []), f"{group}={option}"]
