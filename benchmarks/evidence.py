"""Does a learned policy grow hosts better than rules do? Learns, judges on held-out hosts, writes docs/evidence.md.

    python -m benchmarks.evidence [--out outputs/evidence] [--only ppo,heuristic,...]

Every part is an ordinary run in a folder of its own under --out: what has finished is kept, what was interrupted goes
on from its checkpoint. Policies learn on seed 0; they are judged on seeds 9101 to 9120, 2 hosts each, which nothing was
tuned on. "scratch" trains, from the first epoch on, the very networks that the PPO policy ended with.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence_page import write_page
from esper.builders.population import build_growth
from esper.config.composing import compose
from esper.engine.epoch import EpochRunner
from esper.leyline import SeedStage
from esper.nissa.sinks.jsonl import read_jsonl
from esper.runner.launch import resume, start
from esper.runner.records import EpochTimes, epoch_record
from esper.runner.spec import RunSpec
from esper.runner.stop import StopRequest
from esper.tamiyo import StaticController
from esper.tasks.task import named_generator

HELD_OUT_SEEDS = tuple(range(9101, 9121))
HOSTS_A_SEED = 2
HELD_OUT = [
    "experiment=evidence",
    "controls=[]",
    f"engine.members={HOSTS_A_SEED}",
    "checkpoint.every_epochs=1000",
    "telemetry.report=false",
    "telemetry.console=off",
]
DATASET = ("random", "scheduled", "heuristic")  # what IQL learns from
IS_GROWN = ("BLENDING", "PROBATIONARY", "FOSSILIZED")


@dataclass(frozen=True)
class Part:
    """One run: its folder under --out, its overrides, and the minutes it takes on two cores."""

    folder: str
    overrides: tuple[str, ...]
    minutes: float


def learning(out: Path) -> list[Part]:
    """The runs in which policies learn, and those that IQL learns from."""
    data = [out / f"dataset_{policy}" for policy in DATASET]
    return [
        Part("learn_ppo", ("experiment=evidence", "policy=ppo"), 14),
        Part("learn_reinforce", ("experiment=evidence", "policy=reinforce"), 14),
        *(
            Part(folder.name, (f"policy={name}", "engine.members=64", "seed=1"), 1)
            for name, folder in zip(DATASET, data, strict=True)
        ),
        Part("learn_iql", ("policy=iql", f"policy.dataset=[{','.join(map(str, data))}]"), 2),
        Part("marathon", ("experiment=marathon",), 25),
    ]


def held_out(out: Path) -> list[Part]:
    """The runs that are judged."""
    policies = {name: (f"policy={name}",) for name in ("static", "random", "scheduled", "heuristic")}
    for name in ("ppo", "reinforce", "iql"):
        policies[name] = (f"policy={name}", f"policy.load={out / f'learn_{name}'}")
        policies[name] += () if name == "iql" else ("policy.updates=0",)
    return [
        Part(f"{name}_{seed}", (*overrides, f"seed={seed}", *HELD_OUT), 0.05)
        for name, overrides in policies.items()
        for seed in HELD_OUT_SEEDS
    ]


def run(part: Part, out: Path) -> None:
    """Bring a part to its end, whatever state it was left in."""
    folder = out / part.folder
    status = json.loads((folder / "run.json").read_text())["status"] if (folder / "run.json").exists() else "new"
    if status == "finished":
        return
    print(f"{part.folder}  (about {part.minutes:g} min)", flush=True)
    began = time.monotonic()
    if status != "new" and not (folder / "checkpoints").exists():
        shutil.rmtree(folder)  # it had not come as far as a checkpoint
        status = "new"
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [*part.overrides, "name=evidence"]
    code = start(RunSpec(compose(overrides), folder, overrides)) if status == "new" else resume(folder, [])
    if code:
        sys.exit(code)
    print(f"    {time.monotonic() - began:.0f} s", flush=True)


def scratch(seed: int, out: Path) -> None:
    """Train the networks that PPO's hosts of this seed became, whole from the first epoch on."""
    folder = out / f"scratch_{seed}"
    if (folder / "run.json").exists():
        return
    began = time.monotonic()
    last = read_jsonl(out / f"ppo_{seed}" / "metrics.jsonl")[0][-1]
    growth = build_growth(compose([f"seed={seed}", "policy=static", *HELD_OUT])).local_growth
    for row in last["members"]:
        model = growth.population.models[row["member"]]
        for name, slot in row["slots"].items():
            if slot["stage"] in IS_GROWN:
                seed_id = f"scratch-{row['member']}-{name}"
                generator = named_generator(seed, f"seed/{seed_id}")
                state = model.slots[name].germinate(slot["blueprint"], seed_id, model.host, generator=generator)
                for stage in (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED):
                    state.transition(stage)
    growth.population.sync_topology()
    controller, records = StaticController(), []
    epochs = EpochRunner([growth])
    (reports,) = epochs.reports()
    with StopRequest() as stop:
        while not growth.done:
            records.append(epoch_record(reports, EpochTimes(0, 0, 0, 0, 0, len(reports)), {}))
            ((reports, _),) = epochs.step([controller.act(reports)])
            if stop:
                sys.exit(130)
    records.append(epoch_record(reports, EpochTimes(0, 0, 0, 0, 0, len(reports)), {}))
    (tested,) = epochs.test()
    summary: dict[str, Any] = {
        "grown": {"test_accuracy": tested.accuracy.tolist()},
        "seeds": {"planted": 0, "fossilized": 0, "culled": 0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record).replace("NaN", "null") for record in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    record = {"status": "finished", "summary": summary, "wall_s": time.monotonic() - began}
    (folder / "run.json").write_text(json.dumps(record))


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/evidence"))
    parser.add_argument("--only", default="", help="parts whose folder begins with one of these names")
    arguments = parser.parse_args()
    chosen = tuple(arguments.only.split(",")) if arguments.only else ("",)
    parts = [part for part in (*learning(arguments.out), *held_out(arguments.out)) if part.folder.startswith(chosen)]
    print(
        f"{len(parts)} runs, about {sum(part.minutes for part in parts):.0f} minutes on two cores; Ctrl-C loses nothing"
    )
    for part in parts:
        run(part, arguments.out)
    if "scratch".startswith(chosen):
        for seed in HELD_OUT_SEEDS:
            scratch(seed, arguments.out)
    if chosen == ("",):
        write_page(arguments.out, HELD_OUT_SEEDS)


if __name__ == "__main__":
    main()
