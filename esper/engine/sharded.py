"""A population of which every rank trains a share, and sees the whole."""

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from torch import Tensor

from esper.checkpoint.rng import PREFIX
from esper.engine.actions import Episode
from esper.engine.data_stream import Stream
from esper.engine.governor import GOVERNOR
from esper.engine.growth import Growth
from esper.engine.reports import Epoch, Score, plain_report, report_from_plain
from esper.engine.scores import Scores
from esper.engine.state.snapshot import Snapshot, join_members, join_snapshot, split_snapshot, take_members
from esper.errors import EngineError
from esper.leyline import Action, EpochReport, TelemetryEvent
from esper.leyline.ranks import Ranks, share
from esper.tasks import Task


@dataclass(frozen=True, slots=True)
class _RankReport:
    """What one rank tells the others of its members, in the numbers of the whole population."""

    asked: int  # a digest of every member's action
    reports: list[EpochReport]
    events: list[TelemetryEvent]
    episodes: list[Episode]
    log: list[dict[str, Any]]


class ShardedGrowth:
    """Stands where a Growth would: what it takes and gives is of all members, in one order on every rank.

    A rank trains its share of the grown members and their twins, each of which becomes what it would become in one
    process. All ranks make the same calls. `seconds` are this rank's own.

    Args: growth: of this rank's share; grown: members of the whole population that obey the controller.
    """

    def __init__(self, growth: Growth, grown: int, ranks: Ranks) -> None:
        self.local_growth, self.grown, self.ranks = growth, grown, ranks
        mine = share(grown, ranks)
        copies = len(growth.member_ids) // len(mine)
        self.numbers = [copy * grown + member for copy in range(copies) for member in mine]
        self.member_ids = range(copies * grown)
        growth.episodes = [Episode(growth.seed, number) for number in self.numbers]
        self.episodes = [Episode(growth.seed, number) for number in self.member_ids]
        self.growth_log: list[dict[str, Any]] = []
        self._reports: list[EpochReport] = []
        self._asked: Sequence[Action] = ()

    @property
    def task(self) -> Task:
        """What all members train on."""
        return self.local_growth.task

    @property
    def stream(self) -> Stream:
        """Draws on every rank alike."""
        return self.local_growth.stream

    @property
    def seed(self) -> int:
        """Names every stream of random numbers."""
        return self.local_growth.seed

    @property
    def epoch(self) -> int:
        """Epochs so far."""
        return self.local_growth.epoch

    @property
    def done(self) -> bool:
        """Whether every epoch has been trained."""
        return self.local_growth.done

    @property
    def seconds(self) -> dict[str, float]:
        """This rank's wall time of the last epoch by part."""
        return self.local_growth.seconds

    def reports(self) -> list[EpochReport]:
        """Each member's last one; before its first epoch, that of its untrained host."""
        if not self._reports:
            self._share(self.local_growth.reports())
        return list(self._reports)

    def restart(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """These members begin anew; see `Growth.restart`."""
        own = [(self.numbers.index(e), seed) for e, seed in zip(members, seeds, strict=True) if e in self.numbers]
        self.local_growth.restart([member for member, _ in own], [seed for _, seed in own])
        self._reports = []

    def begin(self, actions: Sequence[Action]) -> Epoch:
        """See `Growth.begin`."""
        self._asked = actions
        return self.local_growth.begin([actions[number] for number in self.numbers])

    def conclude(self, epoch: Epoch, now: Sequence[Score]) -> tuple[list[EpochReport], list[TelemetryEvent]]:
        """See `Growth.conclude`. Raises EngineError where ranks were given different actions."""
        events = self._share(*self.local_growth.conclude(epoch, now), self._asked)
        return list(self._reports), events

    def all_scores(self, scores: Scores) -> Scores:
        """Of all members, from those of this process's."""
        own = (scores.loss, scores.score, scores.rmse)
        shares = self.ranks.all_gather([self.numbers, *(figure.tolist() for figure in own)])
        rows = sorted(row for one in shares for row in zip(*one, strict=True))
        _, *columns = zip(*rows, strict=True)
        return Scores(*(figure.new_tensor(column) for figure, column in zip(own, columns, strict=True)))

    def _share(
        self, reports: Sequence[EpochReport], events: Sequence[TelemetryEvent] = (), asked: Sequence[Action] = ()
    ) -> list[TelemetryEvent]:
        """Let all ranks know what became of this one's members, and learn of theirs; the events of all."""
        for event in events:
            event.member = self.numbers[event.member or 0]
        mine = _RankReport(
            zlib.crc32(repr([replace(action, reason="") for action in asked]).encode()),
            [replace(report, member=self.numbers[report.member]) for report in reports],
            list(events),
            self.local_growth.episodes,
            [entry | {"member": self.numbers[entry["member"]]} for entry in self.local_growth.growth_log],
        )
        shares: list[_RankReport] = self.ranks.all_gather(mine)
        if len({one.asked for one in shares}) > 1:
            raise EngineError(
                "the ranks of this run decide differently, though they know the same: their machines or libraries "
                "compute differently; start them on machines that are alike"
            )
        self._reports = sorted((report for one in shares for report in one.reports), key=lambda report: report.member)
        for one in shares:
            for report, episode in zip(one.reports, one.episodes, strict=True):
                self.episodes[report.member] = episode
        log = (entry for one in shares for entry in one.log)
        self.growth_log = sorted(log, key=lambda e: (self.episodes[e["member"]].start + e["epoch"], e["member"]))
        return sorted((event for one in shares for event in one.events), key=lambda event: event.member or 0)

    # ---- keeping

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As of `Growth.state`, whatever the number of ranks; on rank 0 alone, nothing elsewhere."""
        reports = [plain_report(report) for report in self.reports()]
        own, plain = self.local_growth.state()
        mine = (self.numbers, {name: tensor.cpu() for name, tensor in own.items()}, plain)
        shares = [_Kept(*theirs) for theirs in self.ranks.gather(mine)]
        if not shares:
            return {}, {}
        first = shares[0]
        tensors, population = split_snapshot("", join_members([(one.numbers, one.members) for one in shares]))
        watches = {n: watch for one in shares for n, watch in zip(one.numbers, one.governor["watches"], strict=True)}
        governor = first.governor | {"watches": [watches[number] for number in self.member_ids]}
        if first.governor["snapshot"] is not None:
            whole = join_members([(one.numbers, one.governed) for one in shares])
            kept, governor["snapshot"] = split_snapshot(GOVERNOR, whole)
            tensors |= kept
        return tensors | _drawn(first.tensors), first.plain | {
            "episodes": [list(astuple(episode)) for episode in self.episodes],
            "population": population,
            "governor": governor,
            "growth_log": self.growth_log,
            "reports": reports,
        }

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue where `state` was taken, by however many ranks. Raises CheckpointError where it does not fit."""
        whole = _Kept(list(self.member_ids), tensors, plain)
        place = {number: member for member, number in enumerate(self.numbers)}
        own, population = split_snapshot("", take_members(whole.members, self.numbers))
        governor = whole.governor | {"watches": [whole.governor["watches"][number] for number in self.numbers]}
        if governor["snapshot"] is not None:
            kept, governor["snapshot"] = split_snapshot(GOVERNOR, take_members(whole.governed, self.numbers))
            own |= kept
        log = [entry for entry in plain["growth_log"] if entry["member"] in place]
        changed = {
            "episodes": [plain["episodes"][number] for number in self.numbers],
            "population": population,
            "governor": governor,
            "growth_log": [entry | {"member": place[entry["member"]]} for entry in log],
            "reports": [plain["reports"][number] | {"member": member} for number, member in place.items()],
        }
        self.local_growth.load_state(own | _drawn(tensors), plain | changed)
        self.episodes = [Episode(*values) for values in plain["episodes"]]
        self.growth_log = list(plain["growth_log"])
        self._reports = [report_from_plain(report) for report in plain["reports"]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A growth's state, and the numbers of its members in the whole population."""

    numbers: list[int]
    tensors: dict[str, Tensor]
    plain: dict[str, Any]

    @property
    def governor(self) -> dict[str, Any]:
        return self.plain["governor"]

    @property
    def members(self) -> Snapshot:
        return join_snapshot("", self.tensors, self.plain["population"])

    @property
    def governed(self) -> Snapshot:
        return join_snapshot(GOVERNOR, self.tensors, self.governor["snapshot"])


def _drawn(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where the streams of random numbers stand, the same on all ranks."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
