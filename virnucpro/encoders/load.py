"""From a spec to a network ready to run: published names become ours, and nothing is left over."""

import argparse
import re
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from virnucpro.core.errors import ModelError
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.small import load_small
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.models.classifier_file import TorchFile
from virnucpro.models.specs import DnabertShape, EncoderSpec, Esm2Shape, is_plain_name
from virnucpro.models.store import read_json

_NAMED_IN_MESSAGE = 5
_READERS = 4  # one alone reads a file that is in memory at a quarter of the speed
_WHOLE = ("model.safetensors", "model.safetensors.index.json",
          "pytorch_model.bin", "pytorch_model.bin.index.json")  # fmt: skip


def load_encoder(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    """An encoder on `device`, its kernels proved, few tensors at a time; else a ModelError."""
    if spec.is_small:
        encoder: Encoder = load_small(spec, device, dtype)
    else:
        opened = _Opened(spec)
        encoder = opened.network
        state = {
            name: torch.empty(parameter.shape, dtype=dtype, device=device)
            for name, parameter in encoder.named_parameters()
        }
        parts = _slots(state.items(), opened.tensors).items()
        with ThreadPoolExecutor(_READERS) as readers:
            # a CPU reads as fast as it copies
            spread = readers.map if device.type == "cuda" else map
            list(spread(opened.read, *zip(*parts, strict=True)))
        encoder.load_state_dict(state, assign=True)
    encoder = encoder.to(device).eval().requires_grad_(False)
    with torch.accelerator.device_index(device.index):
        encoder.prove()
    return encoder


def check_encoder(spec: EncoderSpec) -> None:
    """Prove that encoder and tokenizer can be loaded, one tensor at a time; else a ModelError."""
    if spec.is_small:
        load_small(spec, torch.device("cpu"), torch.float32)
    else:
        opened = _Opened(spec)
        for slot in opened.tensors:
            opened.read(slot)
    make_tokenizer(spec).encode_batch(["A"])


# What may stand before the published names of tensors, by whom ever.
_PREFIX = r"(?:esm\.|bert\.|model\.)?(?:encoder\.)?(?:sentence_encoder\.)?"
# Tensors that inference does not need.
_IGNORED = (
    r"(.*\.)?(position_ids|inv_freq|version|_float_tensor|position_embeddings\.weight"
    r"|token_type_ids|alibi)|(.*\.)?(contact_head|lm_head|pooler|cls)\..*"
)
# Our modules and what they are called where they were published, by layer or not; `qkv/0` is the
# first third. ESM-2 has two sets of names.
_NAMES = {
    "esm2": """
        embed           embeddings.word_embeddings  embed_tokens
        norm            emb_layer_norm_after
        qkv/0           attention.self.query        self_attn.q_proj
        qkv/1           attention.self.key          self_attn.k_proj
        qkv/2           attention.self.value        self_attn.v_proj
        out             attention.output.dense      self_attn.out_proj
        attention_norm  attention.LayerNorm         self_attn_layer_norm
        up              intermediate.dense          fc1
        down            output.dense                fc2
        ffn_norm        LayerNorm                   final_layer_norm
    """,
    "dnabert": """
        embed           embeddings.word_embeddings
        token_types     embeddings.token_type_embeddings
        embed_norm      embeddings.LayerNorm
        qkv             attention.self.Wqkv
        out             attention.output.dense
        attention_norm  attention.output.LayerNorm
        up              mlp.gated_layers
        down            mlp.wo
        ffn_norm        mlp.layernorm
    """,
}


def _slot_of(published: str, kind: str) -> str | None:
    """Our name of a published tensor, such as `layers.3.qkv.weight/1`; None if it is unknown."""
    pattern = rf"{_PREFIX}(?:layers?\.(\d{{1,4}})\.)?(.+)\.(weight|bias)"
    if match := re.fullmatch(pattern, published):
        for ours, *theirs in map(str.split, _NAMES[kind].strip().splitlines()):
            if match[2] in theirs:
                module, slash, third = ours.partition("/")
                layer = f"layers.{int(match[1])}." if match[1] else ""
                return f"{layer}{module}.{match[3]}{slash}{third}"
    return None


def _slots(tensors: Iterable[tuple[str, Tensor]], names: Container[str]) -> dict[str, Tensor]:
    """Our tensors by slot; one that is published in thirds is three slots."""
    slots: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if any(f"{name}/{i}" in names for i in range(3)):
            slots |= {f"{name}/{i}": part for i, part in enumerate(tensor.chunk(3))}
        else:
            slots[name] = tensor
    return slots


class _Unfilled(TorchFunctionMode):
    """Modules made inside get no first numbers; on the meta device a compiler would be imported."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, unless it is an initialiser."""
        is_first = getattr(func, "__module__", "") == "torch.nn.init"
        return None if is_first else func(*args, **(kwargs or {}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, paged in as they are used, and configuration of all published kinds of files."""
    inside = (path / name for name in _WHOLE) if path.is_dir() else (path,)
    if (weights := next(filter(Path.is_file, inside), None)) is None:
        raise ModelError(f"{path}: no weights here ({_WHOLE[0]}, {_WHOLE[2]}); fetch it again")
    beside = weights.parent / "config.json"
    config = read_json(beside) if beside.is_file() else {}
    files = [weights]
    if weights.suffix == ".json":
        names = read_json(weights).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise ModelError(f"{weights}: no weight_map from tensors to files")
        files = [weights.parent / name for name in sorted(set(names.values()))]
        for name in names.values():
            if not is_plain_name(name):
                problem = f"shard {name!r:.200} is not a file beside the index"
                raise ModelError(f"{weights}: {problem}")
            if not (weights.parent / name).is_file():
                raise ModelError(f"{weights.parent / name}: shard is missing; fetch it again")
    tensors: dict[str, Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safe_open(str(file), framework="pt") as opened:
                    found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            except Exception as error:  # whose class is not public in all versions
                raise ModelError(f"{file}: not a whole safetensors file: {error}") from error
        elif file.suffix in (".bin", ".pt", ".pth"):
            found, options = _read_pickled(file)
            config |= options
        else:
            raise ModelError(f"{file}: not a weight file (.safetensors, .bin, .pt)")
        if twice := tensors.keys() & found.keys():
            raise ModelError(f"{path}: tensor {min(twice):.200} is there twice")
        tensors |= found
    return tensors, config


def _read_pickled(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a pickle, which is not run, and the options of fair-esm."""
    opened = TorchFile(file, [(argparse.Namespace, "argparse.Namespace")])
    content = opened.content
    tensors = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(tensors, Mapping):
        raise ModelError(f"{file}: holds a {type(tensors).__name__}, not a table of tensors")
    config = content.get("cfg")
    options = config.get("model") if isinstance(config, Mapping) else None
    said = vars(options) if isinstance(options, argparse.Namespace) else {}
    plain = {k: v for k, v in said.items() if type(v) in (bool, int, float, str)}
    return {str(n): opened.tensor(n, tensor).detach() for n, tensor in tensors.items()}, plain


class _Opened:
    """A published network on the meta device; `tensors` has its tensors, with names, by slot."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.source = spec.path
        found, self.config = read_checkpoint(spec.path)
        self.tensors = {s: (n, found[n]) for n in sorted(found) if (s := _slot_of(n, spec.kind))}
        rest = found.keys() - {name for name, _ in self.tensors.values()}
        self._refuse("unexpected", (name for name in rest if not re.fullmatch(_IGNORED, name)))
        with torch.device("meta"), _Unfilled():
            self.network = self._network(spec.kind == "esm2")
        if self.network.dim != spec.dim:
            raise self._error(f"vectors have {self.network.dim} dimensions, not {spec.dim}")
        slots = _slots(self.network.named_parameters(), self.tensors)
        self._refuse("missing", slots.keys() - self.tensors.keys())
        self._refuse("unexpected", (self.tensors[s][0] for s in self.tensors.keys() - slots.keys()))
        for slot, tensor in slots.items():
            name, given = self.tensors[slot]
            if given.shape != tensor.shape:
                raise self._error(f"{name} is {(*given.shape,)}, wanted {(*tensor.shape,)}")

    def read(self, slot: str, into: Tensor | None = None) -> None:
        """Read one of our tensors; it must be finite in its own numbers, or in those of `into`."""
        name, tensor = self.tensors[slot]
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise self._error(f"{name} holds {tensor.dtype}, not plain floats")
        values = tensor if into is None else into.copy_(tensor)
        if not bool(torch.isfinite(values).all()):
            raise self._error(f"{name} has values that {values.dtype} cannot hold")

    def _network(self, is_esm2: bool) -> Encoder:
        """The network as its tensors tell it; a configuration must not contradict them."""
        from virnucpro.encoders.transformer import Dnabert, Esm2  # kernels take long to import

        config, shapes = self.config, {slot: t.shape for slot, (_, t) in self.tensors.items()}
        numbers = {int(slot.split(".")[1]) for slot in shapes if slot.startswith("layers.")}
        needed = ["embed.weight", "layers.0.up.weight"]
        found = [tuple(shapes.get(name, ())) for name in needed]
        if any(len(shape) != 2 for shape in found):
            raise self._error(f"missing tensors: {', '.join(needed)}")
        if numbers != set(range(len(numbers))):
            raise self._error(f"layers are missing between 0 and {max(numbers)}")
        (vocab, dim), (rows, _), layers = *found, len(numbers)
        ffn = rows if is_esm2 else rows // 2
        said = {
            "hidden_size": dim, "encoder_embed_dim": dim, "num_hidden_layers": layers,
            "encoder_layers": layers, "intermediate_size": ffn, "vocab_size": vocab,
        }  # fmt: skip
        for key, size in said.items():
            if (other := config.get(key, size)) != size:
                raise self._error(f"{key} is {other!r:.60}, but the tensors say {size}")
        eps = config.get("layer_norm_eps", 1e-5 if is_esm2 else 1e-12)
        if type(eps) not in (int, float) or not 0 < eps < 1:
            raise self._error(f"layer_norm_eps is {eps!r:.60}")
        heads = config.get("num_attention_heads", config.get("encoder_attention_heads"))
        if heads is None:
            raise self._error("number of attention heads unknown; add config.json")
        if type(heads) is not int or heads < 1 or dim % (heads * (2 if is_esm2 else 1)):
            raise self._error(f"{heads!r:.60} attention heads for {dim} dimensions")
        sizes: dict[str, Any] = {"layers": layers, "dim": dim, "heads": heads, "ffn": ffn,
                                 "eps": float(eps)}  # fmt: skip
        if not is_esm2:
            types = [*shapes.get("token_types.weight", ()), 2][0]
            return Dnabert(DnabertShape(**sizes, vocab=vocab, token_types=types))
        rotary = config.get("position_embedding_type", "rotary") == "rotary"
        if config.get("emb_layer_norm_before") or not rotary:
            raise self._error("an ESM network, but not ESM-2")
        return Esm2(Esm2Shape(**sizes, token_dropout=bool(config.get("token_dropout", True))))

    def _refuse(self, what: str, names: Iterable[str]) -> None:
        if listed := sorted(names):
            more = len(listed) - _NAMED_IN_MESSAGE
            text = ", ".join(listed[:_NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
            raise self._error(f"{what} tensors: {text}")

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"{self.source}: {problem}")
