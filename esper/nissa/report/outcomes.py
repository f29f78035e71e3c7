"""What became of the seeds, counted by slot and blueprint."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esper.nissa.report.decisions import without_numbers
from esper.nissa.report.timeline import SeedStory

OUTCOMES = ("fossilised", "growing", "culled", "rolled back")


@dataclass(slots=True)
class SeedGroup:
    """The seeds of one blueprint in one slot, over all members."""

    slot: str
    blueprint: str
    stories: list[SeedStory]

    def count(self, outcome: str) -> int:
        """How many ended so."""
        return sum(story.outcome == outcome for story in self.stories)

    def why(self, outcome: str) -> str:
        """The commonest reason for an outcome."""
        return "".join(commonest(story.why_ended for story in self.stories if story.outcome == outcome))


def seed_groups(stories: Iterable[SeedStory], slots: Sequence[str] = ()) -> list[SeedGroup]:
    """One group for each slot and blueprint that met, slots in the order given, most planted first."""
    groups: dict[tuple[str, str], list[SeedStory]] = defaultdict(list)
    for story in stories:
        groups[story.slot, story.blueprint].append(story)
    place = {slot: index for index, slot in enumerate(slots)}
    ordered = sorted(
        groups.items(), key=lambda item: (place.get(item[0][0], len(place)), item[0][0], -len(item[1]), item[0][1])
    )
    return [SeedGroup(slot, blueprint, members) for (slot, blueprint), members in ordered]


def commonest(reasons: Iterable[str], most: int = 1) -> list[str]:
    """The reasons given most often, each in the words of its first giving: "alpha reached 1 (and 3 alike)".

    Reasons that differ in their figures only are alike.
    """
    given = [reason for reason in reasons if reason]
    examples = {without_numbers(reason): reason for reason in reversed(given)}
    return [
        examples[kind] if times == 1 else f"{examples[kind]} (and {times - 1} alike)"
        for kind, times in Counter(map(without_numbers, given)).most_common(most)
    ]
