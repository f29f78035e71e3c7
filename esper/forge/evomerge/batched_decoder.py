"""Many decoders of one architecture as one program: weights stacked [K, ...], each product one batched matmul.

What a plain forward pass repeats for each model is done once or not at all: queries, keys and values are one product,
gains of norms are folded into the weights behind them, the first layer's products are taken for each token of the
vocabulary instead of each of the text, rotations are complex products in place, sums are taken by the products, and a
block of windows is so short that it stays in the processor's cache.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.forge.evomerge.methods import State
from esper.kasmina.decoder import NORM_EPS, Decoder
from esper.kasmina.rotary import rotations, window_mask

_BLOCK_TOKENS = 2048  # of all models together


class BatchedDecoder:
    """The losses of K decoders like `template`, whose slots are empty."""

    def __init__(self, template: Decoder) -> None:
        self.n_head, self.window, self.n_layer = template.n_head, template.window, len(template.layers)

    def to_layout(self, state: State) -> State:
        """Weights as this program multiplies by them, under the name of the first tensor that each is made of.

        Args: state: name -> [K, *shape]. Returns: name -> [K, *inputs, outputs]; linear in the state, so that sums of
        models may be taken of either.
        """
        embedding = state["embedding.weight"]
        width = embedding.shape[2]
        # Features that are rotated together come to lie side by side.
        pairs = torch.arange(width).view(self.n_head, 2, -1).transpose(1, 2).reshape(-1)
        weights = {"embedding.weight": embedding, "norm.weight": state["norm.weight"]}
        for layer in _layers(self.n_layer):
            query, key, value = (state[f"{layer}.attention.{part}.weight"] for part in ("query", "key", "value"))
            joined = {
                "attention.query": torch.cat((query[:, pairs], key[:, pairs], value), 1),
                "attention.proj": state[f"{layer}.attention.proj.weight"],
                "mlp.gate": torch.cat((state[f"{layer}.mlp.gate.weight"], state[f"{layer}.mlp.up.weight"]), 1),
                "mlp.down": state[f"{layer}.mlp.down.weight"],
            }
            weights |= {
                f"{layer}.{part}.weight": tensor.transpose(1, 2).contiguous() for part, tensor in joined.items()
            }
            for norm in ("attention_norm", "mlp_norm"):
                weights[f"{layer}.{norm}.weight"] = state[f"{layer}.{norm}.weight"]
        return weights

    @torch.inference_mode()
    def window_nats(self, weights: State, x: Tensor, y: Tensor) -> Tensor:
        """Summed cross-entropy of each window under each model.

        Args: weights: of `to_layout`; gains are folded into them, so that they serve once. x, y: [W, T] int64.

        Returns: [K, W].
        """
        embedding = weights["embedding.weight"]
        head = (embedding * weights["norm.weight"][:, None]).transpose(1, 2)
        for layer in _layers(self.n_layer):
            weights[f"{layer}.attention.query.weight"] *= weights[f"{layer}.attention_norm.weight"][:, :, None]
            weights[f"{layer}.mlp.gate.weight"] *= weights[f"{layer}.mlp_norm.weight"][:, :, None]
        first = torch.bmm(_normed(embedding), weights["layers.0.attention.query.weight"])  # [K, V, 3 C]
        windows = max(1, _BLOCK_TOKENS // (len(embedding) * x.shape[1]))
        return torch.cat(
            [
                self._block(weights, head, first, tokens, targets)
                for tokens, targets in zip(x.split(windows), y.split(windows), strict=True)
            ],
            1,
        )

    def _block(self, weights: State, head: Tensor, first: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        models, width = head.shape[:2]
        windows, length = tokens.shape
        x = weights["embedding.weight"][:, tokens.flatten()]  # [K, N, C], N = windows * length
        angles = torch.complex(*rotations(length, x.new_empty(width // self.n_head)))[:, None]  # [T, 1, D / 2]
        is_windowed = self.window is not None and self.window < length
        mask = window_mask(length, self.window or length, x.device) if is_windowed else None
        for number, layer in enumerate(_layers(self.n_layer)):
            if number == 0:
                joined = first[:, tokens.flatten()]
            else:
                joined = torch.bmm(_normed(x), weights[f"{layer}.attention.query.weight"])
            heads = joined.view(models * windows, length, 3 * self.n_head, width // self.n_head)
            turned = heads[:, :, : 2 * self.n_head].unflatten(-1, (-1, 2))
            torch.view_as_complex(turned).mul_(angles)
            query, key, value = heads.transpose(1, 2).chunk(3, 1)
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
            x.baddbmm_(seen.transpose(1, 2).reshape(x.shape), weights[f"{layer}.attention.proj.weight"])
            gate, up = torch.bmm(_normed(x), weights[f"{layer}.mlp.gate.weight"]).chunk(2, 2)
            x.baddbmm_(F.silu(gate, inplace=True).mul_(up), weights[f"{layer}.mlp.down.weight"])
        scores = F.log_softmax(torch.bmm(_normed(x), head), -1)
        picked = scores.gather(2, targets.flatten().expand(models, -1)[:, :, None])
        return -picked.view(models, windows, length).sum(2)


def _layers(count: int) -> list[str]:
    return [f"layers.{number}" for number in range(count)]


def _normed(x: Tensor) -> Tensor:
    """Features [..., C] at a root mean square of one."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).div_(math.sqrt(x.shape[-1])).square_()
    return x * scale.add_(NORM_EPS).rsqrt_()
