"""Token sequences of many networks as [R, B, T, C]; a linear layer is one batched product."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.engine.fusion.losses import target_losses, token_losses
from esper.engine.fusion.seed_ops import bound_tokens
from esper.engine.fusion.tracing import LayerFn, Modules, Tensors, bound_arguments
from esper.errors import EngineError
from esper.kasmina import blending, rotary
from esper.kasmina.attention import BoundedEmbedding, CausalSelfAttention, SelfAttention, TokenEmbedding
from esper.kasmina.vit import PatchEmbedding, TokenMean, cut_patches
from esper.leyline import CROSS_ENTROPY

_ATTENTION: tuple[type[nn.Module], ...] = (SelfAttention, CausalSelfAttention)
try:
    from esper.kasmina.flex import FlexCausalSelfAttention

    _ATTENTION += (FlexCausalSelfAttention,)  # the same function of the same parameters
except ImportError:  # a torch without flex attention
    pass


class SequenceLayout:
    """The layout of transformer hosts; see `esper.engine.fusion.tracing.Layout`."""

    leaves: tuple[type[nn.Module], ...] = (
        *_ATTENTION,
        rotary.RotaryAttention,
        BoundedEmbedding,
        TokenEmbedding,
        PatchEmbedding,
        TokenMean,
    )

    def to_layout(self, x: Tensor) -> Tensor:
        """x [J, B, ...], as it is."""
        return x

    def fusable_chain(self, node: fx.Node, modules: Modules) -> list[fx.Node]:
        """Nothing is merged."""
        return [node]

    def lower(self, chain: list[fx.Node], modules: Modules) -> LayerFn | None:
        """See `Layout.lower`."""
        (node,) = chain
        name = str(node.target)
        if node.op == "call_function" and node.target is blending.bound_residual:
            max_ratio = bound_arguments(node, by_token=True)
            return lambda inputs, tensors, training: bound_tokens(inputs[0], inputs[1], max_ratio)
        if node.op == "get_attr" and all(user.target is rotary.tied_logits for user in node.users):
            return lambda inputs, tensors, training: tensors[name]
        if node.op == "call_function" and node.target is rotary.tied_logits and len(node.all_input_nodes) == 2:
            return lambda inputs, tensors, training: _product(inputs[0], inputs[1])
        layer: Any = modules.get(name) if node.op == "call_module" else None
        if type(layer) is nn.Linear:
            return lambda inputs, tensors, training: _linear(inputs[0], tensors, name)
        if type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1:
            return lambda inputs, tensors, training: _layer_norm(inputs[0], tensors, name, layer.eps)
        if type(layer) is nn.RMSNorm and len(layer.normalized_shape) == 1:
            return lambda inputs, tensors, training: _rms_norm(inputs[0], tensors, name, layer.eps)
        if type(layer) in self.leaves and not all(_is_plain(part) for part in layer.children()):
            raise EngineError(f"layer {name}: has parts that are not those it was made with")
        if type(layer) in _ATTENTION:
            return lambda inputs, tensors, training: _attention(inputs[0], tensors, name, layer)
        if type(layer) is rotary.RotaryAttention:
            return lambda inputs, tensors, training: _rotary_attention(inputs[0], tensors, name, layer)
        if type(layer) is BoundedEmbedding and _is_plain_embedding(layer):
            return lambda inputs, tensors, training: _look_up(inputs[0], tensors[f"{name}.weight"], layer.block_size)
        if type(layer) is TokenEmbedding:
            size = layer.position.num_embeddings
            return lambda inputs, tensors, training: _embedding(inputs[0], tensors, name, size)
        if type(layer) is PatchEmbedding:
            return lambda inputs, tensors, training: _patches(inputs[0], tensors, name, layer.patch)
        if type(layer) is TokenMean:
            return lambda inputs, tensors, training: inputs[0].mean(-2)
        if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            return lambda inputs, tensors, training: inputs[0].flatten(2)
        return None

    def gate(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """features [g, B, ..., C], weight [g, 1, C], bias [g, 1] -> [g, B, ..., 1]: of tokens, blind to the future."""
        rows, width = features.shape[0], features.shape[-1]
        logits = torch.baddbmm(bias.unsqueeze(1), features.reshape(rows, -1, width), weight.transpose(1, 2))
        return torch.sigmoid(logits).view(*features.shape[:-1], 1)

    def losses(self, outputs: Tensor, y: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """outputs [M, B, ..., K], y [M or 1, B, ...] of classes; outputs [M, B, K], y [M or 1, B, K] of targets."""
        return token_losses(outputs, y) if loss == CROSS_ENTROPY else target_losses(outputs, y, loss)


def _is_plain(part: nn.Module) -> bool:
    return type(part) is nn.Linear or (type(part) is nn.Embedding and _is_plain_embedding(part))


def _is_plain_embedding(part: nn.Embedding) -> bool:
    return part.padding_idx is None and part.max_norm is None and not part.scale_grad_by_freq


def _linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    return _product(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [R or 1, ..., I], weight [R, O, I], bias [R, O] -> [R, ..., O]."""
    rows, outs, width = weight.shape
    if x.shape[0] < rows:  # what all networks read: one product for all of them
        flat = x.reshape(-1, width).t()
        weight = weight.reshape(-1, width)
        out = weight @ flat if bias is None else torch.addmm(bias.reshape(-1, 1), weight, flat)
        return out.view(rows, outs, -1).transpose(1, 2).reshape(rows, *x.shape[1:-1], outs)
    flat = x.reshape(rows, -1, width)
    weight = weight.transpose(1, 2)
    out = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, weight)
    return out.view(rows, *x.shape[1:-1], outs)


def _layer_norm(x: Tensor, tensors: Tensors, name: str, eps: float) -> Tensor:
    out = F.layer_norm(x, x.shape[-1:], eps=eps)
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if weight is None:
        return out
    shape = (weight.shape[0], *(1,) * (x.dim() - 2), -1)
    out = out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


def _rms_norm(x: Tensor, tensors: Tensors, name: str, eps: float | None) -> Tensor:
    out = F.rms_norm(x, x.shape[-1:], eps=eps)
    weight = tensors.get(f"{name}.weight")
    return out if weight is None else out * weight.view(weight.shape[0], *(1,) * (x.dim() - 2), -1)


def _attention(x: Tensor, tensors: Tensors, name: str, layer: SelfAttention) -> Tensor:
    qkv = _linear(x, tensors, f"{name}.qkv")
    rows, samples, length, width = qkv.shape
    q, k, v = qkv.reshape(rows * samples, length, 3, layer.n_head, width // 3 // layer.n_head).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=layer.is_causal)  # [R B, heads, T, D]
    return _linear(out.transpose(1, 2).reshape(rows, samples, length, width // 3), tensors, f"{name}.proj")


def _rotary_attention(x: Tensor, tensors: Tensors, name: str, layer: rotary.RotaryAttention) -> Tensor:
    query, key, value = (_linear(x, tensors, f"{name}.{part}") for part in ("query", "key", "value"))  # [R, B, T, C]
    flat = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    out = rotary.attend(*flat, layer.n_head, layer.window)
    return _linear(out.reshape(query.shape), tensors, f"{name}.proj")


def _embedding(x: Tensor, tensors: Tensors, name: str, block_size: int) -> Tensor:
    embedded = _look_up(x, tensors[f"{name}.token.weight"], block_size)
    return embedded + tensors[f"{name}.position.weight"][:, None, : x.shape[-1]]


def _patches(x: Tensor, tensors: Tensors, name: str, patch: int) -> Tensor:
    return _linear(cut_patches(x, patch), tensors, f"{name}.linear") + tensors[f"{name}.position.weight"][:, None]


def _look_up(x: Tensor, weight: Tensor, block_size: int) -> Tensor:
    """x [R or 1, B, T], weight [R, V, C] -> [R, B, T, C]."""
    length = x.shape[-1]
    if length > block_size:
        raise EngineError(f"a sequence of {length} tokens exceeds block_size={block_size}")
    rows, _, width = weight.shape
    if x.shape[0] == 1:
        embedded = weight.index_select(1, x.reshape(-1))
    else:
        embedded = weight.gather(1, x.reshape(rows, -1, 1).expand(-1, -1, width))
    return embedded.view(rows, *x.shape[1:], width)
