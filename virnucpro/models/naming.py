"""From published weights to our networks: names, shapes, and nothing left over.

Room 4 (batch -> one vector per ORF).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from virnucpro.core.errors import ModelError
from virnucpro.core.text import clipped, shown
from virnucpro.models.specs import DNABERT_S, ESM2_SIZES, DnabertShape, Esm2Shape
from virnucpro.models.weights import Checkpoint

_NAMED_IN_MESSAGE = 5


@dataclass(frozen=True)
class Names:
    """How a publisher calls our tensors.

    Attributes:
        prefix: regular expression of what may stand before every name.
        whole: published module -> our module, outside the layers.
        layer: regular expression of a layer with one group, its number.
        inner: published module -> our module, inside a layer; `qkv/0` is the first third.
        ignored: regular expression of tensors that inference does not need.
    """

    prefix: str
    whole: Mapping[str, str]
    layer: str
    inner: Mapping[str, str]
    ignored: str

    def ours(self, name: str) -> str | None:
        """Our name of a published tensor (`layers.3.qkv.weight/1`); None if it is unknown."""
        match = re.fullmatch(rf"(?:{self.prefix})?(.+)\.(weight|bias)", name)
        if match is None:
            return None
        module, kind = match.groups()
        if module in self.whole:
            return f"{self.whole[module]}.{kind}"
        in_layer = re.fullmatch(rf"{self.layer}\.(.+)", module)
        if in_layer is None or in_layer[2] not in self.inner:
            return None
        target, _, third = self.inner[in_layer[2]].partition("/")
        return f"layers.{int(in_layer[1])}.{target}.{kind}" + (f"/{third}" if third else "")


_NOT_ESM2 = r"(.*\.)?(position_ids|inv_freq|version|_float_tensor|position_embeddings\.weight)"
ESM2_NAMES = (
    Names(
        prefix=r"esm\.",
        whole={"embeddings.word_embeddings": "embed", "encoder.emb_layer_norm_after": "norm"},
        layer=r"encoder\.layer\.(\d{1,4})",
        inner={
            "attention.self.query": "qkv/0",
            "attention.self.key": "qkv/1",
            "attention.self.value": "qkv/2",
            "attention.output.dense": "out",
            "attention.LayerNorm": "attention_norm",
            "intermediate.dense": "up",
            "output.dense": "down",
            "LayerNorm": "ffn_norm",
        },
        ignored=rf"{_NOT_ESM2}|(esm\.)?(contact_head|pooler)\..*|lm_head\..*",
    ),
    Names(
        prefix=r"(?:model\.)?encoder\.(?:sentence_encoder\.)?",
        whole={"embed_tokens": "embed", "emb_layer_norm_after": "norm"},
        layer=r"layers\.(\d{1,4})",
        inner={
            "self_attn.q_proj": "qkv/0",
            "self_attn.k_proj": "qkv/1",
            "self_attn.v_proj": "qkv/2",
            "self_attn.out_proj": "out",
            "self_attn_layer_norm": "attention_norm",
            "fc1": "up",
            "fc2": "down",
            "final_layer_norm": "ffn_norm",
        },
        ignored=rf"{_NOT_ESM2}|(.*\.)?(contact_head|lm_head)\..*",
    ),
)
DNABERT_NAMES = (
    Names(
        prefix=r"bert\.",
        whole={
            "embeddings.word_embeddings": "embed",
            "embeddings.token_type_embeddings": "token_types",
            "embeddings.LayerNorm": "embed_norm",
        },
        layer=r"encoder\.layer\.(\d{1,4})",
        inner={
            "attention.self.Wqkv": "qkv",
            "attention.output.dense": "out",
            "attention.output.LayerNorm": "attention_norm",
            "mlp.gated_layers": "gate_up",
            "mlp.wo": "down",
            "mlp.layernorm": "ffn_norm",
        },
        ignored=r"(.*\.)?(position_ids|token_type_ids|alibi)|(bert\.)?pooler\..*|cls\..*",
    ),
)


def translate(checkpoint: Checkpoint, dialects: tuple[Names, ...]) -> dict[str, str]:
    """Our name -> published name, in the dialect that knows most of the tensors.

    Raises:
        ModelError: if tensors are left that no dialect knows.
    """
    best: dict[str, str] = {}
    unknown: list[str] = sorted(checkpoint.shapes)
    for names in dialects:
        found = {ours: n for n in checkpoint.shapes if (ours := names.ours(n)) is not None}
        if len(found) > len(best):
            known = set(found.values())
            best = found
            unknown = [
                n
                for n in sorted(set(checkpoint.shapes) - known)
                if not re.fullmatch(names.ignored, n)
            ]
    if unknown:
        raise ModelError(f"{checkpoint.source}: unexpected tensors: {_some(unknown)}")
    return best


def esm2_shape(checkpoint: Checkpoint, names: Mapping[str, str]) -> Esm2Shape:
    """Read the size of an ESM-2 network off its tensors and its configuration.

    Raises:
        ModelError: if it is another kind of network, or the two disagree.
    """
    config = checkpoint.config
    dim, layers, ffn = _sizes(checkpoint, names, "up")
    if (
        config.get("emb_layer_norm_before")
        or config.get("position_embedding_type", "rotary") != "rotary"
    ):
        raise ModelError(f"{checkpoint.source}: an ESM network, but not ESM-2")
    heads = config.get("num_attention_heads", config.get("encoder_attention_heads"))
    if heads is None:
        known = {(size.layers, size.dim): size.heads for size in ESM2_SIZES.values()}
        heads = _heads_of_frequencies(checkpoint, dim) or known.get((layers, dim))
    shape = Esm2Shape(
        layers=layers,
        dim=dim,
        heads=_checked_heads(checkpoint, heads, dim, even=True),
        ffn=ffn,
        eps=_number(checkpoint, "layer_norm_eps", 1e-5),
        token_dropout=bool(config.get("token_dropout", True)),
    )
    _agree(checkpoint, {"hidden_size": dim, "encoder_embed_dim": dim, "intermediate_size": ffn})
    _agree(checkpoint, {"num_hidden_layers": layers, "encoder_layers": layers})
    return shape


def dnabert_shape(checkpoint: Checkpoint, names: Mapping[str, str]) -> DnabertShape:
    """Read the size of a DNABERT-2 or DNABERT-S network off its tensors and configuration.

    Raises:
        ModelError: if it is another kind of network, or the two disagree.
    """
    dim, layers, double_ffn = _sizes(checkpoint, names, "gate_up")
    heads = checkpoint.config.get("num_attention_heads")
    if heads is None and (layers, dim) == (DNABERT_S.layers, DNABERT_S.dim):
        heads = DNABERT_S.heads
    types = names.get("token_types.weight")
    shape = DnabertShape(
        layers=layers,
        dim=dim,
        heads=_checked_heads(checkpoint, heads, dim, even=False),
        ffn=double_ffn // 2,
        vocab=checkpoint.shapes[names["embed.weight"]][0],
        token_types=checkpoint.shapes[types][0] if types else DNABERT_S.token_types,
        eps=_number(checkpoint, "layer_norm_eps", DNABERT_S.eps),
    )
    _agree(checkpoint, {"hidden_size": dim, "num_hidden_layers": layers, "vocab_size": shape.vocab})
    _agree(checkpoint, {"intermediate_size": shape.ffn})
    return shape


def fill(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Give a module built on the meta device its weights, one tensor in memory at a time.

    Raises:
        ModelError: naming tensors that are missing, have the wrong shape or are not finite.
    """
    state = {
        name: torch.empty(parameter.shape, dtype=dtype, device=device)
        for name, parameter in module.named_parameters()
    }
    slots = _slots(state, names)
    missing = sorted(set(slots) - set(names))
    if missing:
        raise ModelError(f"{checkpoint.source}: missing tensors: {_some(missing)}")
    extra = sorted(names[name] for name in set(names) - set(slots))
    if extra:
        raise ModelError(f"{checkpoint.source}: unexpected tensors: {_some(extra)}")
    wrong = [
        f"{names[name]} is {tuple(checkpoint.shapes[names[name]])}, wanted {tuple(slot.shape)}"
        for name, slot in slots.items()
        if checkpoint.shapes[names[name]] != tuple(slot.shape)
    ]
    if wrong:
        raise ModelError(f"{checkpoint.source}: {_some(wrong)}")
    for name, slot in slots.items():
        _copy(checkpoint, names[name], slot)
    module.load_state_dict(state, assign=True)


def _slots(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    slots = {}
    for name, tensor in state.items():
        if any(f"{name}/{i}" in names for i in range(3)):
            slots.update({f"{name}/{i}": part for i, part in enumerate(tensor.chunk(3))})
        else:
            slots[name] = tensor
    return slots


def _copy(checkpoint: Checkpoint, name: str, slot: Tensor) -> None:
    tensor = checkpoint.read(name)
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        raise ModelError(f"{checkpoint.source}: {name} holds {tensor.dtype}, not plain floats")
    slot.copy_(tensor)
    if not bool(torch.isfinite(slot).all()):
        raise ModelError(f"{checkpoint.source}: {name} has values that {slot.dtype} cannot hold")


def _sizes(
    checkpoint: Checkpoint, names: Mapping[str, str], ffn_module: str
) -> tuple[int, int, int]:
    """Width, layers, and rows of the first feed-forward matrix."""
    numbers = {int(name.split(".")[1]) for name in names if name.startswith("layers.")}
    needed = ("embed.weight", f"layers.0.{ffn_module}.weight")
    shapes = [checkpoint.shapes[names[name]] if name in names else () for name in needed]
    if any(len(shape) != 2 for shape in shapes):
        raise ModelError(f"{checkpoint.source}: missing tensors: {_some(list(needed))}")
    if numbers != set(range(len(numbers))):
        raise ModelError(f"{checkpoint.source}: layers are missing between 0 and {max(numbers)}")
    return shapes[0][1], len(numbers), shapes[1][0]


def _heads_of_frequencies(checkpoint: Checkpoint, dim: int) -> int | None:
    """A rotary table has one frequency for two dimensions of a head."""
    for name, shape in checkpoint.shapes.items():
        if name.endswith("inv_freq") and len(shape) == 1 and shape[0]:
            return dim // (2 * shape[0])
    return None


def _checked_heads(checkpoint: Checkpoint, heads: Any, dim: int, *, even: bool) -> int:
    if heads is None:
        raise ModelError(f"{checkpoint.source}: number of attention heads unknown; add config.json")
    unit = 2 if even else 1
    if not isinstance(heads, int) or heads < 1 or dim % (heads * unit):
        raise ModelError(
            f"{checkpoint.source}: {shown(heads)} attention heads for {dim} dimensions"
        )
    return heads


def _number(checkpoint: Checkpoint, key: str, default: float) -> float:
    value = checkpoint.config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ModelError(f"{checkpoint.source}: {key} is {shown(value)}")
    return float(value)


def _agree(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> None:
    for key, size in sizes.items():
        said = checkpoint.config.get(key, size)
        if said != size:
            raise ModelError(
                f"{checkpoint.source}: {key} is {shown(said)}, but the tensors say {size}"
            )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_IN_MESSAGE
    return ", ".join(map(clipped, names[:_NAMED_IN_MESSAGE])) + (
        f" and {more} more" if more > 0 else ""
    )
