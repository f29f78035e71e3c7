import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.simic.prioritized_buffer import PrioritizedReplayBuffer


def filled(count: int, capacity: int = 100, priority=lambda i: 1.0, **options) -> PrioritizedReplayBuffer:
    buffer = PrioritizedReplayBuffer(capacity, **options)
    for i in range(count):
        buffer.add(torch.full((3,), float(i)), i % 5, i / 10, torch.full((3,), i + 0.5), i % 4 == 3, priority(i))
    return buffer


def test_a_batch_holds_whole_transitions() -> None:
    batch, indices, weights = filled(20).sample(8)
    assert list(batch) == ["states", "actions", "rewards", "next_states", "dones"]
    number = torch.from_numpy(indices)
    assert torch.equal(batch["states"], number.float().unsqueeze(1).expand(8, 3))
    assert torch.equal(batch["next_states"], batch["states"] + 0.5)
    assert torch.equal(batch["actions"], number % 5)
    assert torch.allclose(batch["rewards"], number / 10)
    assert torch.equal(batch["dones"], (number % 4 == 3).float())
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "states": torch.float32,
        "actions": torch.int64,
        "rewards": torch.float32,
        "next_states": torch.float32,
        "dones": torch.float32,
    }
    assert weights.dtype == torch.float32
    assert weights.tolist() == [1.0] * 8


def test_a_batch_is_the_callers() -> None:
    buffer = filled(4)
    buffer.sample(8)[0]["states"].fill_(-1)
    assert (buffer.sample(8)[0]["states"] >= 0).all()


@pytest.mark.parametrize("state", [[1.0, 2.0], np.array([1.0, 2.0]), torch.tensor([1.0, 2.0], requires_grad=True)])
def test_states_of_any_kind(state) -> None:
    buffer = PrioritizedReplayBuffer(4)
    buffer.add(state=state, action=[1, 0], reward=1.0, next_state=state, done=True, priority=1.0)
    batch, _, _ = buffer.sample(2)
    assert batch["states"].tolist() == [[1.0, 2.0]] * 2
    assert batch["actions"].tolist() == [[1, 0]] * 2
    assert batch["states"].dtype == torch.float32


def test_images_stay_bytes() -> None:
    buffer = PrioritizedReplayBuffer(4)
    image = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    buffer.add(image, 0, 0.0, image, False, 1.0)
    states = buffer.sample(1)[0]["states"]
    assert states.dtype == torch.uint8
    assert torch.equal(states[0], image)


def test_adding_many_is_adding_each() -> None:
    many = PrioritizedReplayBuffer(10)
    for start, count in ((0, 7), (7, 8), (15, 10)):
        i = np.arange(start, start + count)
        states = np.repeat(i[:, None], 3, axis=1).astype(np.float32)
        many.extend(states, i % 5, i / 10, states + 0.5, i % 4 == 3, i + 1.0)
    each = filled(25, capacity=10, priority=lambda i: i + 1.0)
    assert (many._priorities == each._priorities).all()
    for left, right in zip(many.sample(64)[0].values(), each.sample(64)[0].values(), strict=True):
        assert torch.equal(left, right)


def test_priorities_are_kept_with_their_exponent() -> None:
    buffer = filled(3, priority=lambda i: [0.0, 2.0, -3.0][i], alpha=0.5, epsilon=1e-4)
    assert buffer._priorities[:3] == pytest.approx([0.01, 2.0001**0.5, 3.0001**0.5])
    buffer.update_priorities([2, 0], torch.tensor([4.0, 9.0], requires_grad=True))
    assert buffer._priorities[:4] == pytest.approx([9.0001**0.5, 2.0001**0.5, 4.0001**0.5, 0.0])


def test_frequencies_follow_priorities() -> None:
    buffer = filled(50, capacity=64, priority=lambda i: i + 1.0, alpha=1.0)
    counts = np.bincount(np.concatenate([buffer.sample(100)[1] for _ in range(400)]), minlength=64)
    expected = 40_000 * (np.arange(64) + 1.0) / 1275
    expected[50:] = 0
    assert (counts[50:] == 0).all()
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_alpha_zero_is_uniform() -> None:
    buffer = filled(10, priority=lambda i: 10.0**i, alpha=0.0)
    counts = np.bincount(buffer.sample(1000)[1])
    assert counts.tolist() == [100] * 10  # equal shares of the mass, drawn from one by one


def test_importance_weights_by_hand() -> None:
    buffer = filled(2, priority=lambda i: [1.0, 3.0][i], alpha=1.0, beta=0.5, beta_increment=0.25, epsilon=1e-12)
    for beta in (0.5, 0.75, 1.0, 1.0):
        assert buffer.beta == beta
        _, indices, weights = buffer.sample(40)
        assert np.bincount(indices).tolist() == [10, 30]
        # (N P)^-beta is (2 / 4)^-beta and (6 / 4)^-beta; over the larger, the first: 1 and 3^-beta
        assert weights.tolist() == pytest.approx([1.0 if i == 0 else 3.0**-beta for i in indices])


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    drawn = [filled(50, priority=float, generator=torch.Generator().manual_seed(s)).sample(32)[1] for s in (1, 1, 2)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    filled(5).sample(32)
    assert torch.equal(torch.get_rng_state(), before)


@given(
    capacity=st.integers(1, 40),
    steps=st.lists(
        st.one_of(st.floats(0, 1e5), st.lists(st.tuples(st.integers(0, 39), st.floats(0, 1e5)), max_size=6)),
        min_size=1,
        max_size=60,
    ),
)
@settings(max_examples=100, deadline=None)
def test_any_sequence_of_operations_equals_a_plain_list(capacity, steps) -> None:
    buffer = PrioritizedReplayBuffer(capacity, alpha=0.7)
    plain, numbers, added = np.zeros(capacity), np.zeros(capacity), 0
    for step in steps:
        if isinstance(step, float):
            buffer.add([float(added)], 0, 0.0, [0.0], False, step)
            plain[added % capacity], numbers[added % capacity] = (step + 1e-6) ** 0.7, added
            added += 1
        elif pairs := [(i, p) for i, p in step if i < len(buffer)]:
            buffer.update_priorities([i for i, _ in pairs], [p for _, p in pairs])
            for i, p in pairs:
                plain[i] = (p + 1e-6) ** 0.7
    assert len(buffer) == min(added, capacity)
    assert buffer._priorities == pytest.approx(plain)
    assert buffer._tree.total() == pytest.approx(plain.sum())
    if added:
        batch, indices, weights = buffer.sample(16)
        assert indices.max() < len(buffer)
        assert batch["states"][:, 0].tolist() == numbers[indices].tolist()
        assert weights.max() == 1.0
        assert (weights > 0).all()


def test_what_cannot_be_done_is_said() -> None:
    buffer = PrioritizedReplayBuffer(3)
    with pytest.raises(ValueError, match=r"empty: add\(\) a transition"):
        buffer.sample(2)
    buffer.add([1.0, 2.0], 0, 0.0, [1.0, 2.0], False, 1.0)
    with pytest.raises(ValueError, match="batch_size=0"):
        buffer.sample(0)
    with pytest.raises(ValueError, match=r"states has shape \[3\] .* expected \[2\]"):
        buffer.add([1.0, 2.0, 3.0], 0, 0.0, [1.0, 2.0], False, 1.0)
    with pytest.raises(ValueError, match="4 transitions at once"):
        buffer.extend(np.ones((4, 2)), [0] * 4, [0.0] * 4, np.ones((4, 2)), [False] * 4, [1.0] * 4)
    for priority in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite"):
            buffer.add([1.0, 2.0], 0, 0.0, [1.0, 2.0], False, priority)
        with pytest.raises(ValueError, match="NaN or infinite"):
            buffer.update_priorities([0], [priority])
    for index in (1, -1):
        with pytest.raises(ValueError, match="expected 0 to 0"):
            buffer.update_priorities([index], [1.0])
    with pytest.raises(ValueError, match="1 indices and 2 priorities"):
        buffer.update_priorities([0], [1.0, 2.0])
    assert len(buffer) == 1
    assert buffer._priorities[0] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"capacity": 0}, {"alpha": -1.0}, {"beta": 1.5}, {"beta_increment": -0.1}, {"epsilon": 0.0}]
)
def test_settings_out_of_range(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PrioritizedReplayBuffer(**{"capacity": 10, **options})
