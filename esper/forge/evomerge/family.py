"""What the phase works on: a trunk, and the specialists that have it as their parent."""

from dataclasses import dataclass
from pathlib import Path

from esper.errors import ForgeError
from esper.forge.bundles import load_language_model, parent
from esper.forge.language_model import LanguageModel
from esper.forge.phase import MODEL
from esper.tasks.text.tokenizer import Tokenizer

TRUNK = MODEL  # what cognate passes on, beside its specialists
_FEWEST = 2  # specialists


@dataclass(frozen=True)
class Cognates:
    """trunk; specialists by name; paths of all, the trunk's first."""

    trunk: LanguageModel
    specialists: dict[str, LanguageModel]
    paths: tuple[Path, ...]


def read_family(folder: Path, tokenizer: Tokenizer) -> Cognates:
    """Read a folder that cognate has left.

    Raises: ForgeError where it is of another phase or tokenizer, or the specialists are not of this trunk.
    CheckpointError where a bundle is altered.
    """
    trunk = load_language_model(folder / TRUNK)
    if trunk.card.phase != "cognate":
        raise ForgeError(
            f"{folder} is what {trunk.card.phase} has left; evomerge merges what cognate has: name that phase's folder"
        )
    stems = [path.with_suffix("") for path in sorted(folder.glob("*.safetensors")) if path.stem != TRUNK]
    if len(stems) < _FEWEST:
        raise ForgeError(f"{folder} holds {len(stems)} specialists beside the trunk; a merge takes {_FEWEST} or more")
    sha256 = parent(folder / TRUNK, "trunk")["sha256"]
    specialists = {stem.name: load_language_model(stem) for stem in stems}
    for name, model in (("the trunk", trunk), *specialists.items()):
        model.card.check_tokenizer(tokenizer, f"{folder}: {name}")
        if model.card.architecture != trunk.card.architecture:
            raise ForgeError(f"{folder}: {name} has another architecture than the trunk; run cognate anew")
    for name, model in specialists.items():
        if sha256 not in [each["sha256"] for each in model.card.parents if each["relation"] == "trunk"]:
            raise ForgeError(f"{folder}: {name} was not trained from the trunk beside it; run cognate anew")
    return Cognates(trunk, specialists, (folder / TRUNK, *stems))
