"""One look for every stage and every curve, in the terminal and in the report."""

from dataclasses import dataclass

from esper.leyline import SeedStage


@dataclass(frozen=True, slots=True)
class StageLook:
    """How a stage is shown: a word, one letter where there is no room, and colours that bear text."""

    label: str
    letter: str
    colour: str
    ink: str


STAGE_LOOKS: dict[SeedStage, StageLook] = {
    SeedStage.DORMANT: StageLook("dormant", "·", "#c9ced6", "#1c2430"),
    SeedStage.GERMINATED: StageLook("germinated", "g", "#b5d684", "#1c2430"),
    SeedStage.TRAINING: StageLook("training", "t", "#3577d0", "#ffffff"),
    SeedStage.BLENDING: StageLook("blending", "b", "#efb13f", "#1c2430"),
    SeedStage.PROBATIONARY: StageLook("probation", "p", "#8a5fd0", "#ffffff"),
    SeedStage.FOSSILIZED: StageLook("fossilised", "F", "#1f8764", "#ffffff"),
    SeedStage.CULLED: StageLook("culled", "x", "#cf4040", "#ffffff"),
    SeedStage.EMBARGOED: StageLook("embargoed", "e", "#a3abb8", "#1c2430"),
    SeedStage.RESETTING: StageLook("resetting", "r", "#bfc5cf", "#1c2430"),
}

# name -> (on light, on dark). Pages define them as CSS variables of these names, so that one picture serves both.
THEME: dict[str, tuple[str, str]] = {
    "paper": ("#fbfbfa", "#14181f"),
    "card": ("#fffffe", "#1c222b"),
    "ink": ("#1c2431", "#e6e9ee"),
    "muted": ("#626c7b", "#9aa4b2"),
    "line": ("#e1e5ea", "#303844"),
    "grown": ("#0f7f78", "#3fbfb3"),
    "twin": ("#737b87", "#98a1af"),
    "good": ("#197a52", "#4cc38a"),
    "bad": ("#c23434", "#ff7b72"),
    "series0": ("#2f6fcb", "#6ba4f2"),
    "series1": ("#d2691e", "#f0985a"),
    "series2": ("#7a4fc4", "#b091ef"),
    "series3": ("#2c8a4b", "#62c784"),
    "series4": ("#c2388b", "#ea7dbd"),
    "series5": ("#8a6d1a", "#d3b254"),
    "series6": ("#1a8fa3", "#5cc9dc"),
    "series7": ("#a33f3f", "#e58a8a"),
}
SERIES_COLOURS = 8  # for things that have no colour of their own


def colour(name: str) -> str:
    """The light colour of a theme name, to draw with."""
    return THEME[name][0]


def stage_look(name: str | None) -> StageLook:
    """The look of a stage by its name; what is unknown looks dormant."""
    try:
        return STAGE_LOOKS[SeedStage[name or "DORMANT"]]
    except KeyError:
        return STAGE_LOOKS[SeedStage.DORMANT]
