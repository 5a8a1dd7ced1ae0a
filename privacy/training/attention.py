"""Attention with per-record gradients: torch's nn.MultiheadAttention made of Linear layers, records first within.

Opacus 1.6 has one too, which mixes up heads and positions where records come first (its pull request 825).
"""

import math
from typing import Any

import torch
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn
from torch.nn import functional

from securepfl.errors import ModelError


class Attention(nn.Module):
    """What `like` (nn.MultiheadAttention) computes from the same arguments, to rounding, with copies of its weights.

    query [B, L, embed_dim], key [B, S, kdim], value [B, S, vdim] where `like` has batch_first, else positions first:
    they are then turned before the first layer with parameters, so that each sees records first. Returns the output,
    shaped like query, and the weights ([B, L, S], or [B, heads, L, S] where not averaged; None where not asked for).
    Masks, biases, add_bias_kv, add_zero_attn and dropout of the weights are as in torch. A query of two dimensions is
    refused (ModelError): torch would take its rows, which may be records, for positions of one.

    Example:
        >>> import torch
        >>> plain = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.randn(3, 5, 8)
        >>> torch.allclose(Attention(plain)(x, x, x)[0], plain(x, x, x)[0], atol=1e-5)
        True
    """

    # What torch's encoder layers ask their attention: it has no packed weights, so they take no fast path past it.
    in_proj_weight = None
    in_proj_bias = None

    def __init__(self, like: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.batch_first = like.embed_dim, like.num_heads, like.batch_first
        self.dropout, self.add_zero_attn = like.dropout, like.add_zero_attn
        self._qkv_same_embed_dim = like._qkv_same_embed_dim
        if like._qkv_same_embed_dim:
            weights = [(part, like.in_proj_weight.requires_grad) for part in like.in_proj_weight.chunk(3)]
        else:
            separate = (like.q_proj_weight, like.k_proj_weight, like.v_proj_weight)
            weights = [(weight, weight.requires_grad) for weight in separate]
        biases = (None,) * 3 if like.in_proj_bias is None else like.in_proj_bias.chunk(3)
        bias_trained = like.in_proj_bias is not None and like.in_proj_bias.requires_grad
        self.query, self.key, self.value = (
            _linear(weight, bias, trains, bias_trained) for (weight, trains), bias in zip(weights, biases, strict=True)
        )
        out, out_bias = like.out_proj.weight, like.out_proj.bias
        self.out_proj = _linear(out, out_bias, out.requires_grad, out_bias is not None and out_bias.requires_grad)
        self.extra_key, self.extra_value = (
            None if bias is None else _linear(bias.reshape(-1, 1), None, bias.requires_grad, False)
            for bias in (like.bias_k, like.bias_v)
        )
        self.train(like.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() != 3 or key.dim() != 3 or value.dim() != 3:
            raise ModelError(
                f"attention takes records, positions and features, not a query of shape {tuple(query.shape)}: "
                "give it three dimensions (x.unsqueeze(1) for one position)"
            )
        if is_causal and attn_mask is None:
            raise ModelError("attention: is_causal needs attn_mask, as in torch; give the mask")
        if not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        q, k, v = self.query(query), self.key(key), self.value(value)
        k, v = self._lengthened(k, self.extra_key), self._lengthened(v, self.extra_value)
        added = k.shape[1] - key.shape[1]
        mask = self._mask(attn_mask, key_padding_mask, added, q)
        mixed, weights = self._mixed(self._by_head(q), self._by_head(k), self._by_head(v), mask, need_weights)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _lengthened(self, part: Tensor, extra: nn.Module | None) -> Tensor:
        """`part` [B, S, embed_dim] with the learned position and the zero one, where there are such."""
        records = len(part)
        if extra is not None:
            part = torch.cat([part, extra(part.new_ones(records, 1, 1))], dim=1)
        return torch.cat([part, part.new_zeros(records, 1, self.embed_dim)], dim=1) if self.add_zero_attn else part

    def _by_head(self, part: Tensor) -> Tensor:
        return part.reshape(*part.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _mask(self, attention: Tensor | None, padding: Tensor | None, added: int, like: Tensor) -> Tensor | None:
        """Both masks as what is added to the scores, [1 or B, 1 or heads, 1 or L, S]; None where there are none."""
        parts = []
        if attention is not None:
            by_record = (-1, self.num_heads) if attention.dim() == 3 else (1, 1)
            parts.append(_scores(attention.reshape(*by_record, *attention.shape[-2:]), like))
        if padding is not None:
            parts.append(_scores(padding[:, None, None, :], like))
        if not parts:
            return None
        return functional.pad(parts[0] if len(parts) == 1 else parts[0] + parts[1], (0, added))

    def _mixed(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Values mixed by attention, [B, heads, L, head], and the weights. As in torch, two ways, equal to rounding."""
        chance = self.dropout if self.training else 0.0
        if not need_weights:
            return functional.scaled_dot_product_attention(q, k, v, mask, chance), None
        scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(2, 3)
        weights = functional.dropout((scores if mask is None else scores + mask).softmax(dim=-1), chance)
        return weights @ v, weights


def attention_in_place_of(module: nn.Module) -> Attention | None:
    """An Attention with the weights of torch's or Opacus's own class; None for any other module.

    Opacus's trains another function where it has several heads and records first: with torch's classes, its weights
    are those of attention.
    """
    if type(module) is nn.MultiheadAttention:
        return Attention(module)
    return _of_opacus(module) if type(module) is DPMultiheadAttention else None


def _of_opacus(module: Any) -> Attention:
    plain = nn.MultiheadAttention(
        module.embed_dim,
        module.num_heads,
        dropout=module.dropout.p,
        bias=module.qlinear.bias is not None,
        add_bias_kv=module.add_bias_kv,
        add_zero_attn=module.add_zero_attn,
        kdim=module.kdim,
        vdim=module.vdim,
        batch_first=module.batch_first,
    )
    plain.load_state_dict(module.state_dict())
    found = Attention(plain.to(module.qlinear.weight).train(module.training))
    for new, old in zip(_layers(found), _layers(module, "qlinear", "klinear", "vlinear"), strict=True):
        new.requires_grad_(any(parameter.requires_grad for parameter in old.parameters()))
    return found


def _layers(module: Any, query: str = "query", key: str = "key", value: str = "value") -> list[nn.Module]:
    return [getattr(module, name) for name in (query, key, value, "out_proj")]


def _linear(weight: Tensor, bias: Tensor | None, trained: bool, bias_trained: bool) -> nn.Linear:
    """A layer with copies of these, on their device."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias_trained)
    return layer


def _scores(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as torch takes it: True hides, numbers are added."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
