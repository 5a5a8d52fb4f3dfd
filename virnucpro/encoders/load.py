"""From a spec to a network ready to run: published names become ours, and nothing is left over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from virnucpro.core.errors import ModelError
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.small import TOWERS, load_small
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.encoders.weights import open_checkpoint
from virnucpro.models.specs import DNABERT_S, ESM2_SIZES, DnabertShape, EncoderSpec, Esm2Shape

_NAMED_IN_MESSAGE = 5
_READERS = 4  # one alone reads a file that is in memory at a quarter of the speed


def load_encoder(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    """An encoder on `device` for inference, few tensors in memory at a time; else a ModelError."""
    if spec.is_small:
        encoder: Encoder = load_small(spec, device, dtype)
    else:
        opened = _Opened(spec)
        encoder = opened.network
        state = {
            name: torch.empty(parameter.shape, dtype=dtype, device=device)
            for name, parameter in encoder.named_parameters()
        }

        def fill(slot: str, part: Tensor) -> None:
            part.copy_(opened.read(slot))
            opened.check_finite(slot, part)

        parts = _slots(state.items(), opened.names).items()
        with ThreadPoolExecutor(_READERS) as readers:
            spread = (
                readers.map if device.type == "cuda" else map
            )  # a CPU reads as fast as it copies
            list(spread(fill, *zip(*parts, strict=True)))
        encoder.load_state_dict(state, assign=True)
    return encoder.to(device).eval().requires_grad_(False)


def check_encoder(spec: EncoderSpec) -> None:
    """Prove that encoder and tokenizer can be loaded, one tensor at a time; else a ModelError."""
    if spec.is_small:
        load_small(spec, torch.device("cpu"), torch.float32)
    else:
        opened = _Opened(spec)
        for slot in opened.names:
            opened.check_finite(slot, opened.read(slot))
    make_tokenizer(spec).encode("A")


@dataclass(frozen=True)
class Dialect:
    """How a publisher calls our tensors; modules are published ones -> ours."""

    prefix: str  # regular expression of what may stand before every name
    whole: Mapping[str, str]  # modules outside the layers
    layer: str  # regular expression of a layer with one group, its number
    inner: Mapping[str, str]  # modules inside a layer; `qkv/0` is the first third
    ignored: str  # regular expression of tensors that inference does not need

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
_ESM2_NAMES = (
    Dialect(
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
    Dialect(
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
_DNABERT_NAMES = (
    Dialect(
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

_DIALECTS = {"esm2": _ESM2_NAMES, "dnabert": _DNABERT_NAMES}


class _Unfilled(TorchFunctionMode):
    """Modules made inside get no first numbers; on the meta device a compiler would be imported."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, unless it is an initialiser."""
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


class _Opened:
    """A published network on the meta device; `names` gives its tensors by our slot."""

    def __init__(self, spec: EncoderSpec) -> None:
        if spec.kind not in _DIALECTS:
            known = ", ".join([*_DIALECTS, *TOWERS])
            raise ModelError(f"encoder kind {spec.kind!r} is unknown; known: {known}")
        from virnucpro.encoders.dnabert import Dnabert  # attention kernels take seconds to import
        from virnucpro.encoders.esm2 import Esm2

        self.checkpoint = open_checkpoint(spec.path)
        self.names = self._translate(_DIALECTS[spec.kind])
        self.network: Encoder
        with torch.device("meta"), _Unfilled():
            if spec.kind == "esm2":
                self.network = Esm2(self._esm2_shape())
            else:
                self.network = Dnabert(self._dnabert_shape())
        if self.network.dim != spec.dim:
            raise self._error(f"vectors have {self.network.dim} dimensions, not {spec.dim}")
        self._check_slots()

    def read(self, slot: str) -> Tensor:
        """The published numbers of one of our tensors, on the CPU."""
        tensor = self.checkpoint.read(self.names[slot])
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise self._error(f"{self.names[slot]} holds {tensor.dtype}, not plain floats")
        return tensor

    def check_finite(self, slot: str, values: Tensor) -> None:
        """Refuse what is no number, or became none in another format."""
        if not bool(torch.isfinite(values).all()):
            raise self._error(f"{self.names[slot]} has values that {values.dtype} cannot hold")

    def _translate(self, dialects: tuple[Dialect, ...]) -> dict[str, str]:
        """Our name -> published name, in the dialect that knows most of the tensors."""
        published = sorted(self.checkpoint.shapes)
        found = [{ours: n for n in published if (ours := one.ours(n))} for one in dialects]
        best = max(range(len(dialects)), key=lambda i: len(found[i]))
        known, ignored = {*found[best].values()}, dialects[best].ignored
        unknown = [n for n in published if n not in known and not re.fullmatch(ignored, n)]
        if unknown:
            raise self._error(f"unexpected tensors: {_some(unknown)}")
        return found[best]

    def _esm2_shape(self) -> Esm2Shape:
        config = self.checkpoint.config
        dim, layers, ffn = self._sizes("up")
        rotary = config.get("position_embedding_type", "rotary") == "rotary"
        if config.get("emb_layer_norm_before") or not rotary:
            raise self._error("an ESM network, but not ESM-2")
        heads = config.get("num_attention_heads", config.get("encoder_attention_heads"))
        if heads is None:
            # a rotary table has one frequency for two dimensions of a head
            tables = [n for n in self.checkpoint.shapes if n.endswith("inv_freq")]
            known = {(size.layers, size.dim): size.heads for size in ESM2_SIZES.values()}
            heads = known.get((layers, dim))
            if tables and len(shape := self.checkpoint.shapes[tables[0]]) == 1 and shape[0]:
                heads = dim // (2 * shape[0])
        self._agree(hidden_size=dim, encoder_embed_dim=dim, intermediate_size=ffn)
        self._agree(num_hidden_layers=layers, encoder_layers=layers)
        return Esm2Shape(
            layers=layers, dim=dim, heads=self._heads(heads, dim, 2), ffn=ffn,
            eps=self._eps(1e-5), token_dropout=bool(config.get("token_dropout", True)),
        )  # fmt: skip

    def _dnabert_shape(self) -> DnabertShape:
        dim, layers, double_ffn = self._sizes("gate_up")
        known = DNABERT_S.heads if (layers, dim) == (DNABERT_S.layers, DNABERT_S.dim) else None
        heads = self.checkpoint.config.get("num_attention_heads", known)
        vocab = self.checkpoint.shapes[self.names["embed.weight"]][0]
        types = self.checkpoint.shapes.get(self.names.get("token_types.weight", ""), ())
        self._agree(hidden_size=dim, num_hidden_layers=layers, vocab_size=vocab)
        self._agree(intermediate_size=double_ffn // 2)
        return DnabertShape(
            layers=layers, dim=dim, heads=self._heads(heads, dim, 1), ffn=double_ffn // 2,
            vocab=vocab, token_types=types[0] if types else 2, eps=self._eps(DNABERT_S.eps),
        )  # fmt: skip

    def _sizes(self, ffn_module: str) -> tuple[int, int, int]:
        """Width, layers, and rows of the first feed-forward matrix."""
        numbers = {int(name.split(".")[1]) for name in self.names if name.startswith("layers.")}
        needed = ["embed.weight", f"layers.0.{ffn_module}.weight"]
        shapes = [self.checkpoint.shapes.get(self.names.get(name, ""), ()) for name in needed]
        if any(len(shape) != 2 for shape in shapes):
            raise self._error(f"missing tensors: {_some(needed)}")
        if numbers != set(range(len(numbers))):
            raise self._error(f"layers are missing between 0 and {max(numbers)}")
        return shapes[0][1], len(numbers), shapes[1][0]

    def _heads(self, heads: Any, dim: int, unit: int) -> int:
        if heads is None:
            raise self._error("number of attention heads unknown; add config.json")
        if type(heads) is not int or heads < 1 or dim % (heads * unit):
            raise self._error(f"{heads!r:.60} attention heads for {dim} dimensions")
        return heads

    def _eps(self, usual: float) -> float:
        eps = self.checkpoint.config.get("layer_norm_eps", usual)
        if type(eps) not in (int, float) or not 0 < eps < 1:
            raise self._error(f"layer_norm_eps is {eps!r:.60}")
        return float(eps)

    def _agree(self, **sizes: int) -> None:
        for key, size in sizes.items():
            if (said := self.checkpoint.config.get(key, size)) != size:
                raise self._error(f"{key} is {said!r:.60}, but the tensors say {size}")

    def _check_slots(self) -> None:
        slots, shapes = _slots(self.network.named_parameters(), self.names), self.checkpoint.shapes
        if missing := sorted(slots.keys() - self.names.keys()):
            raise self._error(f"missing tensors: {_some(missing)}")
        if extra := sorted(self.names[slot] for slot in self.names.keys() - slots.keys()):
            raise self._error(f"unexpected tensors: {_some(extra)}")
        wrong = [
            f"{self.names[slot]} is {shapes[self.names[slot]]}, wanted {tuple(tensor.shape)}"
            for slot, tensor in slots.items()
            if shapes[self.names[slot]] != tuple(tensor.shape)
        ]
        if wrong:
            raise self._error(_some(wrong))

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"{self.checkpoint.source}: {problem}")


def _slots(tensors: Iterable[tuple[str, Tensor]], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our tensors by slot; one that is published in thirds is three slots."""
    slots: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if any(f"{name}/{i}" in names for i in range(3)):
            slots |= {f"{name}/{i}": part for i, part in enumerate(tensor.chunk(3))}
        else:
            slots[name] = tensor
    return slots


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_IN_MESSAGE
    return ", ".join(names[:_NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
