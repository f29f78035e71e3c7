"""The native step of a decoder, against the same written down in torch."""

import pytest
import torch
import torch.nn.functional as F

from esper.engine.kernels import ternary
from esper.engine.kernels.ternary import TernaryWeight, quantize_activations, ternary_product
from esper.engine.kernels.ternary_decoder import DecoderTensors, TernaryDecoder
from esper.errors import EngineError
from esper.tasks.task import named_generator

VOCAB, WIDTH, HIDDEN, HEADS, LAYERS, LENGTH, EPS = 21, 24, 40, 2, 2, 19, 1e-6
SHAPES = [(WIDTH, WIDTH)] * 4 + [(HIDDEN, WIDTH)] * 2 + [(WIDTH, HIDDEN)]


@pytest.fixture(autouse=True)
def library():
    if ternary.load()[0] is None:
        pytest.skip(ternary.load()[1])


def made():
    """The tensors of a decoder, and its trits and scales [layer][part]."""
    generator = named_generator(0, "decoder")
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    trits = [[torch.randint(-1, 2, shape, generator=generator) for shape in SHAPES] for _ in range(LAYERS)]
    scales = [[0.05 + 0.01 * part for part in range(7)] for _ in range(LAYERS)]
    scales = [torch.tensor(row).tolist() for row in scales]  # as float32 has them
    weights = [[TernaryWeight(t, s) for t, s in zip(*layer, strict=True)] for layer in zip(trits, scales, strict=True)]
    rates = 10_000.0 ** (-torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    angles = torch.arange(LENGTH)[:, None] * rates
    norms = 1 + 0.1 * draw(2 * LAYERS + 1, WIDTH)
    return DecoderTensors(draw(VOCAB, WIDTH), norms, weights, angles.cos(), angles.sin()), trits, scales


def plain_logits(tokens, window):
    """Logits [B, T, V] of whole sequences."""
    tensors, trits, scales = made()
    length = tokens.shape[1]

    def times(x, layer, part):
        return ternary_product(*quantize_activations(x), trits[layer][part].float(), scales[layer][part])

    def norm(x, index):
        return F.rms_norm(x, (WIDTH,), tensors.norms[index], EPS)

    def rotated(x):
        first, second = x.chunk(2, -1)
        cos, sin = tensors.cos[:length], tensors.sin[:length]
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    ones = torch.ones(length, length, dtype=torch.bool)
    mask = ones.tril() & ones.triu(1 - window)
    x = tensors.embedding[tokens]
    for layer in range(LAYERS):
        h = norm(x, 2 * layer)
        query, key, value = (times(h, layer, p).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in range(3))
        mixed = F.scaled_dot_product_attention(rotated(query), rotated(key), value, attn_mask=mask)
        x = x + times(mixed.transpose(1, 2).flatten(2), layer, 3)
        h = norm(x, 2 * layer + 1)
        x = x + times(F.silu(times(h, layer, 4)) * times(h, layer, 5), layer, 6)
    return norm(x, 2 * LAYERS) @ tensors.embedding.T


def texts(sequences: int) -> torch.Tensor:
    return torch.randint(VOCAB, (sequences, LENGTH), generator=named_generator(sequences, "texts"))


def stepped(tokens, window=LENGTH):
    decoder = TernaryDecoder(made()[0], tokens.shape[0], HEADS, window, EPS)
    return torch.stack([decoder.step(tokens[:, t]) for t in range(tokens.shape[1])], 1)


def agree(found, expected):
    """Nearly everywhere to rounding; where that tips an activation to the next of its 255 values, by little."""
    apart = (found - expected).abs()
    assert (apart < 1e-4).float().mean() > 0.8 and apart.max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("window", [LENGTH, 5, 1])
@pytest.mark.parametrize("sequences", [1, 4, 6])
def test_steps_give_what_whole_sequences_give(sequences, window):
    tokens = texts(sequences)
    agree(stepped(tokens, window), plain_logits(tokens, window))


def test_sequences_side_by_side_do_not_see_each_other():
    tokens = texts(5)
    together = stepped(tokens)
    for row in range(5):
        agree(stepped(tokens[row : row + 1])[0], together[row])


def test_what_is_no_step_is_refused():
    decoder = TernaryDecoder(made()[0], 2, HEADS, LENGTH, EPS)
    for wrong in (torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(EngineError, match=r"a step takes int64 \[2\]"):
            decoder.step(wrong)
    for wrong in ([0, VOCAB], [-1, 0]):
        with pytest.raises(EngineError, match="where there are 21"):
            decoder.step(torch.tensor(wrong))
    for _ in range(LENGTH):
        decoder.step(torch.tensor([1, 2]))
    with pytest.raises(EngineError, match="no room for more"):
        decoder.step(torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("change", "heads", "said"),
    [
        ({"norms": torch.ones(2, WIDTH)}, HEADS, "norms are"),
        ({"cos": torch.ones(LENGTH, 3)}, HEADS, "rotations are"),
        ({}, 5, "rotations are"),
        ({"embedding": torch.ones(VOCAB, WIDTH + 8)}, HEADS, "its layers are not"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(change, heads, said):
    with pytest.raises(EngineError, match=said):
        TernaryDecoder(made()[0]._replace(**change), 2, heads, LENGTH, EPS)
