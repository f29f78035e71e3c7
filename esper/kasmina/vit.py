"""The host that reads an image as a sequence of patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.attention import SelfAttention
from esper.kasmina.base import Host
from esper.kasmina.seeding import default_generator, weights_from
from esper.kasmina.transformer import TransformerLayer, initialise


class PatchEmbedding(nn.Module):
    """A linear layer of each patch's pixels, plus a learned vector of its place; patches row by row."""

    def __init__(self, channels: int, image_size: tuple[int, int], patch: int, n_embd: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(channels * patch**2, n_embd)
        self.position = nn.Embedding(image_size[0] // patch * (image_size[1] // patch), n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W]. Returns: [B, T, C]."""
        return self.linear(cut_patches(x, self.patch)) + self.position.weight


def cut_patches(x: Tensor, patch: int) -> Tensor:
    """[..., C, H, W] -> [..., T, C patch patch]: squares of the image, row by row."""
    cut = x.unfold(-2, patch, patch).unfold(-2, patch, patch)  # [..., C, rows, columns, patch, patch]
    return cut.movedim(-5, -3).flatten(-3).flatten(-3, -2)


class TokenMean(nn.Module):
    """What all tokens have in common."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, C]."""
        return x.mean(-2)


class ViTHost(Host):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) that classifies by the mean of its tokens.

    Every layer ends in a slot position, "block1" the first, that is the identity until a model puts a slot there.

    Args: num_classes; input_shape: (C, H, W) of the images; patch: pixels of a patch's side; n_embd: C of the tokens;
    n_head; n_layer; generator: draws the initial weights (None: fixed by torch's seed). Raises: ConfigError when
    patches do not fill the image, or n_head does not divide n_embd.
    """

    topology = "transformer"

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        patch: int,
        n_embd: int,
        n_head: int,
        n_layer: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        if patch < 1 or height % patch or width % patch:
            raise ConfigError(f"host.patch={patch}: must divide images of {height}x{width} pixels")
        if n_layer < 1:
            raise ConfigError(f"host.n_layer={n_layer}: must be at least 1")
        with weights_from(generator or default_generator("host")):
            self.embedding = PatchEmbedding(channels, (height, width), patch, n_embd)
            self.layers = nn.ModuleList(TransformerLayer(n_embd, n_head, SelfAttention) for _ in range(n_layer))
            self.norm = nn.LayerNorm(n_embd)
            self.mean = TokenMean()
            self.head = nn.Linear(n_embd, num_classes)
            initialise(self, n_embd, n_layer)
        self.injection_points = {f"block{i}": n_embd for i in range(1, n_layer + 1)}
        self._slot_keys = tuple(self.injection_points)
        self.slots = nn.ModuleDict({key: nn.Identity() for key in self._slot_keys})

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The layer before the slot."""
        return (self.layers[self._slot_keys.index(position)],)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, C, H, W]. Returns: logits [B, num_classes]."""
        x = self.embedding(x)
        for layer, key in zip(self.layers, self._slot_keys, strict=True):
            x = self.slots[key](layer(x))
        return self.head(self.mean(self.norm(x)))
