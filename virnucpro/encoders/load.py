"""From a spec to a network ready to run: published names become ours, and nothing is left over."""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from virnucpro.core.errors import ModelError
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.small import load_small
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
            # a CPU reads as fast as it copies
            spread = readers.map if device.type == "cuda" else map
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


# What may stand before the published names of tensors, by whom ever.
_PREFIX = r"(?:esm\.|bert\.|model\.)?(?:encoder\.)?(?:sentence_encoder\.)?"
# Tensors that inference does not need.
_IGNORED = (
    r"(.*\.)?(position_ids|inv_freq|version|_float_tensor|position_embeddings\.weight"
    r"|token_type_ids|alibi)|(.*\.)?(contact_head|lm_head|pooler|cls)\..*"
)
# Published modules -> ours; `qkv/0` is the first third. ESM-2 has two sets of names.
_NAMES = {
    "esm2": {
        "embeddings.word_embeddings": "embed",
        "embed_tokens": "embed",
        "emb_layer_norm_after": "norm",
        "layer.#.attention.self.query": "layers.#.qkv/0",
        "layer.#.attention.self.key": "layers.#.qkv/1",
        "layer.#.attention.self.value": "layers.#.qkv/2",
        "layer.#.attention.output.dense": "layers.#.out",
        "layer.#.attention.LayerNorm": "layers.#.attention_norm",
        "layer.#.intermediate.dense": "layers.#.up",
        "layer.#.output.dense": "layers.#.down",
        "layer.#.LayerNorm": "layers.#.ffn_norm",
        "layers.#.self_attn.q_proj": "layers.#.qkv/0",
        "layers.#.self_attn.k_proj": "layers.#.qkv/1",
        "layers.#.self_attn.v_proj": "layers.#.qkv/2",
        "layers.#.self_attn.out_proj": "layers.#.out",
        "layers.#.self_attn_layer_norm": "layers.#.attention_norm",
        "layers.#.fc1": "layers.#.up",
        "layers.#.fc2": "layers.#.down",
        "layers.#.final_layer_norm": "layers.#.ffn_norm",
    },
    "dnabert": {
        "embeddings.word_embeddings": "embed",
        "embeddings.token_type_embeddings": "token_types",
        "embeddings.LayerNorm": "embed_norm",
        "layer.#.attention.self.Wqkv": "layers.#.qkv",
        "layer.#.attention.output.dense": "layers.#.out",
        "layer.#.attention.output.LayerNorm": "layers.#.attention_norm",
        "layer.#.mlp.gated_layers": "layers.#.gate_up",
        "layer.#.mlp.wo": "layers.#.down",
        "layer.#.mlp.layernorm": "layers.#.ffn_norm",
    },
}


def _slot_of(published: str, names: Mapping[str, str]) -> str | None:
    """Our name of a published tensor, such as `layers.3.qkv.weight/1`; None if it is unknown."""
    match = re.fullmatch(rf"{_PREFIX}(.+)\.(weight|bias)", published)
    module, kind = match.groups() if match else ("", "")
    number = re.search(r"\.(\d{1,4})\.", module)
    if number:
        module = module.replace(number[0], ".#.", 1)
    if module not in names:
        return None
    ours, _, third = names[module].partition("/")
    ours = ours.replace("#", str(int(number[1]))) if number else ours
    return f"{ours}.{kind}/{third}" if third else f"{ours}.{kind}"


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
        from virnucpro.encoders.dnabert import Dnabert  # attention kernels take seconds to import
        from virnucpro.encoders.esm2 import Esm2

        self.checkpoint = open_checkpoint(spec.path)
        published = sorted(self.checkpoint.shapes)
        self.names = {slot: n for n in published if (slot := _slot_of(n, _NAMES[spec.kind]))}
        rest = set(published) - set(self.names.values())
        self._refuse("unexpected", (name for name in rest if not re.fullmatch(_IGNORED, name)))
        is_esm2 = spec.kind == "esm2"
        self.network: Encoder
        with torch.device("meta"), _Unfilled():
            sizes = self._sizes(is_esm2)
            self.network = Esm2(Esm2Shape(**sizes)) if is_esm2 else Dnabert(DnabertShape(**sizes))
        if self.network.dim != spec.dim:
            raise self._error(f"vectors have {self.network.dim} dimensions, not {spec.dim}")
        slots, shapes = _slots(self.network.named_parameters(), self.names), self.checkpoint.shapes
        self._refuse("missing", slots.keys() - self.names.keys())
        self._refuse("unexpected", (self.names[slot] for slot in self.names.keys() - slots.keys()))
        for slot, tensor in slots.items():
            if (shape := shapes[self.names[slot]]) != (wanted := tuple(tensor.shape)):
                raise self._error(f"{self.names[slot]} is {shape}, wanted {wanted}")

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

    def _sizes(self, is_esm2: bool) -> dict[str, Any]:
        """What the tensors say of the network; a configuration must not contradict them."""
        config, shapes = self.checkpoint.config, self.checkpoint.shapes
        numbers = {int(name.split(".")[1]) for name in self.names if name.startswith("layers.")}
        needed = ["embed.weight", f"layers.0.{'up' if is_esm2 else 'gate_up'}.weight"]
        found = [shapes.get(self.names.get(name, ""), ()) for name in needed]
        if any(len(shape) != 2 for shape in found):
            raise self._error(f"missing tensors: {_some(needed)}")
        if numbers != set(range(len(numbers))):
            raise self._error(f"layers are missing between 0 and {max(numbers)}")
        (vocab, dim), (rows, _), layers = *found, len(numbers)
        ffn = rows if is_esm2 else rows // 2
        said = {
            "hidden_size": dim, "encoder_embed_dim": dim, "num_hidden_layers": layers,
            "encoder_layers": layers, "intermediate_size": ffn,
        }  # fmt: skip
        for key, size in said.items() if is_esm2 else (said | {"vocab_size": vocab}).items():
            if (other := config.get(key, size)) != size:
                raise self._error(f"{key} is {other!r:.60}, but the tensors say {size}")
        eps = config.get("layer_norm_eps", 1e-5 if is_esm2 else DNABERT_S.eps)
        if type(eps) not in (int, float) or not 0 < eps < 1:
            raise self._error(f"layer_norm_eps is {eps!r:.60}")
        heads = self._heads(layers, dim, is_esm2)
        sizes = {"layers": layers, "dim": dim, "heads": heads, "ffn": ffn, "eps": float(eps)}
        if not is_esm2:
            types = shapes.get(self.names.get("token_types.weight", ""), (2,))
            return {**sizes, "vocab": vocab, "token_types": types[0]}
        rotary = config.get("position_embedding_type", "rotary") == "rotary"
        if config.get("emb_layer_norm_before") or not rotary:
            raise self._error("an ESM network, but not ESM-2")
        return {**sizes, "token_dropout": bool(config.get("token_dropout", True))}

    def _heads(self, layers: int, dim: int, is_esm2: bool) -> int:
        config = self.checkpoint.config
        heads = config.get("num_attention_heads", config.get("encoder_attention_heads"))
        if heads is None:
            published = [*ESM2_SIZES.values()] if is_esm2 else [DNABERT_S]
            heads = {(one.layers, one.dim): one.heads for one in published}.get((layers, dim))
            # a rotary table has one frequency for two dimensions of a head
            tables = [s for n, s in self.checkpoint.shapes.items() if n.endswith("inv_freq")]
            if tables and len(tables[0]) == 1 and tables[0][0]:
                heads = dim // (2 * tables[0][0])
        if heads is None:
            raise self._error("number of attention heads unknown; add config.json")
        if type(heads) is not int or heads < 1 or dim % (heads * (2 if is_esm2 else 1)):
            raise self._error(f"{heads!r:.60} attention heads for {dim} dimensions")
        return heads

    def _refuse(self, what: str, names: Iterable[str]) -> None:
        if listed := sorted(names):
            raise self._error(f"{what} tensors: {_some(listed)}")

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
