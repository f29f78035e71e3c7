"""The trainer: its frozen reference, what it keeps, when it stops, and that it goes on bit for bit."""

import pytest
import torch

from esper.errors import ConfigError, DivergedError, ForgeError
from esper.forge.budget import TrainingBudget
from esper.forge.examples import Example, ExampleBatches, think_tokens
from esper.forge.phase import Interrupted, PhaseContext
from esper.forge.quietstar import REINFORCETrainer, RLConfig
from esper.forge.quietstar.episodes import rewards_of, think_aloud
from esper.forge.training import LanguageTraining
from esper.kasmina import Decoder
from esper.tasks.procedural import Problem
from esper.tasks.task import named_generator
from tests.forge.models import tokenizer
from tests.forge.quietstar.thinking import model, problems, rl

TRAIN, VALIDATION = problems(12), problems(6, "validation")
LONGER = rl(num_episodes=320, batch_size=16, validation_frequency=80, patience=3, learning_rate=0.01)
END_THINK = think_tokens(tokenizer())[1]
# One in two answers is right for whoever answers 1 at once, and so there is something to learn in seconds.
ODD = [Problem("parity", 1, "odd ", f"{bits}=", "1", "0") for bits in ("1000", "0010", "1110")]


def weights(network) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def started() -> Decoder:
    """One that answers 0 or 1 at random, behind an empty thought or none."""
    made = model()
    eos, drawn = tokenizer().eos_token_id, named_generator(0, "started")

    def draw(count, generator):
        picked = torch.randint(2, (count,), generator=generator).tolist()
        asked = [tuple(tokenizer().encode(ODD[place % 3].prompt)) for place in range(count)]
        return [
            Example((*prompt, END_THINK - 1), (END_THINK, ord(str(bit)), eos))
            for prompt, bit in zip(asked, picked, strict=True)
        ]

    batches = ExampleBatches(draw, 16, 0, drawn)
    context = PhaseContext(seed=0, model=None, tokenizer_name="bytes", corpus_config=None)
    return LanguageTraining(made, batches, TrainingBudget(steps=40, batch_size=16, learning_rate=0.02), "s").run(
        context
    )


def test_rewards_rise_and_the_model_answers_better():
    network = started()
    trainer = REINFORCETrainer(network, LONGER)
    found = trainer.train(ODD, ODD * 8)
    assert 0.2 < found["initial_exact_match"] < 0.8
    assert found["best_exact_match"] > 0.9
    assert found["reward_gain_low"] > 0 and found["last_reward"] > found["first_reward"]
    _, written = think_aloud(network, tokenizer(), ODD * 8, 6, named_generator(0, "after"))
    assert sum(rewards_of(ODD * 8, written, tokenizer())) / 24 > 0.85


def test_the_reference_is_another_and_stays_as_it_was():
    network = model()
    before = weights(network)
    trainer = REINFORCETrainer(network, rl())
    shared = {parameter.data_ptr() for parameter in network.parameters()}
    assert shared.isdisjoint(parameter.data_ptr() for parameter in trainer.reference.parameters())
    trainer.train(TRAIN, VALIDATION)
    assert same(before, weights(trainer.reference)) and not any(p.requires_grad for p in trainer.reference.parameters())
    assert not same(weights(network), before) or trainer.stopping.best_update == 0


def test_the_divergence_grows_as_the_policy_leaves_its_reference():
    told = []
    trainer = REINFORCETrainer(started(), LONGER)
    trainer.train(ODD, ODD * 8, log=lambda step, **figures: told.append(figures))
    assert told[0]["kl"] == pytest.approx(0.0, abs=1e-6) and told[-1]["kl"] > 0.05


def test_best_weights_are_a_copy_and_are_what_remains():
    network = started()
    kept = {}

    class Watched(REINFORCETrainer):
        def _validate(self, problems, most):
            score = super()._validate(problems, most)
            if self.stopping.best_update == self.update:
                kept.update(weights(self.policy))
            return score

    trainer = Watched(network, rl(learning_rate=0.05, num_episodes=96))  # so fast that it gets worse again
    trainer.train(ODD, ODD * 8)
    assert same(kept, weights(network))
    best = {name.removeprefix("policy."): tensor for name, tensor in trainer.stopping.best[0].items()}
    assert {p.data_ptr() for p in network.parameters()}.isdisjoint(tensor.data_ptr() for tensor in best.values())
    assert trainer.stopping.best_update < trainer.update


def test_it_stops_early_when_nothing_is_gained():
    found = REINFORCETrainer(model(), rl(num_episodes=400, learning_rate=1e-6)).train(TRAIN, VALIDATION)
    assert found["stopped_early"] and found["episodes"] == 32  # two validations, of sixteen episodes each
    assert len(found["rewards"]) == 32 and found["validations"][0][0] == 0


def test_the_baseline_trains_on_after_its_first_fit():
    trainer = REINFORCETrainer(started(), rl())
    fitted = []
    original = trainer.baseline.fit
    trainer.baseline.fit = lambda *given: (original(*given), fitted.append(weights(trainer.baseline)))[0]
    trainer.train(ODD, ODD * 4)
    assert not same(fitted[0], weights(trainer.baseline))


def test_only_what_was_written_is_rewarded():
    end, eos = END_THINK, tokenizer().eos_token_id
    (problem,) = problems(1)
    asked = Problem("running_sum", 1, "sum ", f"{problem.body}{problem.answer}</think>{problem.answer}", problem.answer)
    right = tokenizer().encode(problem.answer)
    for written, reward in [
        ([end, *right, eos], 1.0),
        ([*tokenizer().encode("12"), end, *right, eos], 1.0),
        ([end, eos], 0.0),  # the answer stands in the prompt alone
        ([*right, end, eos], 0.0),  # ... or in the thought
        ([*right, eos], 0.0),  # no end of a thought
        ([end, *right], 0.0),  # no end of the answer
        ([end, *right, *right, eos], 0.0),
    ]:
        assert rewards_of([asked], [written], tokenizer()) == [reward], written


def test_a_training_that_is_stopped_ends_in_the_same_weights(tmp_path):
    def trainer(folder):
        batches = ExampleBatches(
            lambda count, generator: [Example((1, 2), (3,))] * count, 2, 0, named_generator(0, "replay")
        )
        return REINFORCETrainer(model(), rl(), replay=batches, folder=folder)

    whole = trainer(tmp_path / "whole")
    expected = whole.train(TRAIN, VALIDATION)
    for stop_at in (1, 3):
        folder = tmp_path / f"stopped{stop_at}"
        asked = iter([False] * (stop_at - 1) + [True])
        with pytest.raises(Interrupted):
            trainer(folder).train(TRAIN, VALIDATION, should_stop=lambda asked=asked: next(asked))
        again = trainer(folder)
        assert again.train(TRAIN, VALIDATION) == expected
        assert same(weights(again.policy), weights(whole.policy))
        assert same(weights(again.baseline), weights(whole.baseline))
    # What is over is not done again.
    assert trainer(tmp_path / "whole").train(TRAIN, VALIDATION) == expected


def test_text_that_is_replayed_is_learned():
    replay = ExampleBatches(lambda count, generator: [Example((1, 2), (3,))] * count, 4, 0, named_generator(0, "r"))
    trainer = REINFORCETrainer(model(), rl(learning_rate=0.01, replay_coefficient=1.0), replay=replay)

    def log_prob() -> float:
        return trainer.policy(torch.tensor([[1, 2]]))[0, -1].log_softmax(-1)[3].item()

    told = []
    before = log_prob()
    trainer.train(TRAIN[:8], VALIDATION[:4], log=lambda step, **figures: told.append(log_prob()))
    assert told[-1] > before + 0.5


def test_the_entropy_bonus_falls_to_its_floor():
    config = RLConfig(entropy_coefficient=0.1, entropy_decay=0.5, entropy_floor=0.02)
    assert [config.entropy_at(update) for update in range(5)] == pytest.approx([0.1, 0.05, 0.025, 0.02, 0.02])


@pytest.mark.parametrize("kind, last", [("constant", 0.01), ("linear", 0.01), ("cosine", 0.01)])
def test_the_learning_rate_follows_its_schedule(kind, last):
    told = []
    trainer = REINFORCETrainer(model(), rl(lr_schedule=kind, learning_rate=0.01, patience=2))
    trainer.stopping.patience = None
    trainer.train(TRAIN, VALIDATION, log=lambda step, **figures: told.append(figures["learning_rate"]))
    assert told[0] == last and len(told) == 6
    assert told == sorted(told, reverse=True)
    assert (told[-1] == 0.01) == (kind == "constant")


def test_gradients_of_policy_and_baseline_are_clipped_together():
    trainer = REINFORCETrainer(started(), rl(max_grad_norm=1e-3))
    trainer.update = 0
    sizes = []
    step = trainer._optimizer.step

    def watched():
        grads = [parameter.grad for parameter in trainer._parameters.values() if parameter.grad is not None]
        sizes.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        assert trainer._parameters["baseline.out.weight"].grad is not None
        return step()

    trainer._optimizer.step = watched
    trainer.train(ODD, ODD)
    assert max(sizes) <= 1.01e-3


def test_bad_input_is_told_in_a_line_or_two():
    with pytest.raises(ConfigError, match=r"quietstar\.rl\.patience=20: expected fewer than 20"):
        RLConfig(patience=20)
    with pytest.raises(ConfigError, match="lr_schedule=exponential: not known"):
        RLConfig(lr_schedule="exponential")
    with pytest.raises(ForgeError, match="there are no problems"):
        REINFORCETrainer(model(), rl()).train([], VALIDATION)
    small = Decoder(256, 8, 1, 1, 16, generator=named_generator(0, "small"))
    with pytest.raises(ForgeError, match="the model knows 256 tokens") as caught:
        REINFORCETrainer(small, rl())
    assert len(str(caught.value).splitlines()) == 2
    broken = model()
    with torch.no_grad():
        broken.embedding.weight[0] = float("nan")
    with pytest.raises((DivergedError, ForgeError)):
        REINFORCETrainer(broken, rl()).train(TRAIN, VALIDATION)


def test_defaults_are_those_of_the_contract():
    config = RLConfig()
    assert (config.num_episodes, config.batch_size, config.patience, config.validation_frequency) == (
        10_000,
        32,
        5,
        500,
    )
    assert (config.gae_lambda, config.gamma, config.use_gae, config.max_grad_norm) == (0.95, 0.99, True, 1.0)
    assert (config.entropy_coefficient, config.value_loss_coef, config.lr_schedule) == (0.01, 0.5, "cosine")
