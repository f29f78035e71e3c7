"""Hand-made epoch reports."""

from dataclasses import replace

import pytest

from esper.leyline import EpochReport, SeedStage, SeedStateReport

SLOTS = ("early", "mid", "late")


def seed(stage=SeedStage.DORMANT, **values):
    """One slot's report; a live one is healthy, learns, and carries conv_light."""
    planted = stage is not SeedStage.DORMANT
    ids = {"seed_id": "seed-1", "blueprint_id": "conv_light"} if planted else {}
    return SeedStateReport(
        **{"slot_id": "", "stage": stage, "gradient_norm": 1.0, "can_advance": True, **ids, **values}
    )


def report(epoch=1, member=0, max_epochs=25, accuracy=50.0, loss=1.0, **values):
    """One member's report; slots are given by name, the others are dormant."""
    slots = {name: replace(values.pop(name, seed()), slot_id=name) for name in SLOTS}
    return EpochReport(
        **{
            "member": member,
            "epoch": epoch,
            "max_epochs": max_epochs,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "val_loss": loss,
            "val_accuracy": accuracy,
            "best_val_accuracy": accuracy,
            "parameter_count": 1000,
            "flops_per_sample": 10_000,
            "slots": slots,
            **values,
        }
    )


@pytest.fixture(name="seed")
def seed_factory():
    return seed


@pytest.fixture(name="report")
def report_factory():
    return report


@pytest.fixture
def catalogue():
    return [
        ("norm", 128),
        ("attention", 2128),
        ("depthwise", 4928),
        ("conv_light", 36_992),
        ("conv_enhance", 41_216),
        ("conv_heavy", 73_984),
    ]
