"""From a spec to a network ready to run: published names become ours, and nothing is left over."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
        parts = _slots(state.items(), opened.names).items()
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
        for slot in opened.names:
            opened.read(slot)
    make_tokenizer(spec).encode("A")


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
        gate_up         mlp.gated_layers
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


def _slots(tensors: Iterable[tuple[str, Tensor]], names: Mapping[str, str]) -> dict[str, Tensor]:
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

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, unless it is an initialiser."""
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


class Checkpoint:
    """Named tensors of safetensors, `pytorch_model.bin` or fair-esm `.pt`, and `config`; unread."""

    def __init__(self, path: Path) -> None:
        self.source = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.readers: dict[str, Callable[[], Tensor]] = {}
        inside = (path / name for name in _WHOLE) if path.is_dir() else (path,)
        if (weights := next(filter(Path.is_file, inside), None)) is None:
            raise ModelError(f"{path}: no weights here ({_WHOLE[0]}, {_WHOLE[2]}); fetch it again")
        config = weights.parent / "config.json"
        self.config = read_json(config) if config.is_file() else {}
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
        for file in files:
            if file.suffix == ".safetensors":
                try:
                    handle: Any = safe_open(str(file), framework="pt")
                    shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
                except Exception as error:  # whose class is not public in all versions
                    raise ModelError(f"{file}: not a whole safetensors file: {error}") from error
                for name, shape in shapes.items():
                    self._add(name, shape, partial(handle.get_tensor, name))
            elif file.suffix in (".bin", ".pt", ".pth"):
                self._open_pickled(file)
            else:
                raise ModelError(f"{file}: not a weight file (.safetensors, .bin, .pt)")

    def _add(self, name: str, shape: Any, reader: Callable[[], Tensor]) -> None:
        if name in self.shapes:
            raise ModelError(f"{self.source}: tensor {name:.200} is there twice")
        self.shapes[name], self.readers[name] = tuple(shape), reader

    def _open_pickled(self, file: Path) -> None:
        """Note the tensors of a pickle, which is not run; options of fair-esm go to `config`."""
        opened = TorchFile(file, [(argparse.Namespace, "argparse.Namespace")])
        content = opened.content
        if not isinstance(content, Mapping):
            raise ModelError(f"{file}: holds a {type(content).__name__}, not a table of tensors")
        tensors = content.get("model", content)
        if not isinstance(tensors, Mapping):
            raise ModelError(f"{file}: no table of tensors inside")
        if tensors is not content:
            config = content.get("cfg")
            options = config.get("model") if isinstance(config, Mapping) else None
            if isinstance(options, argparse.Namespace):
                plain = (bool, int, float, str)
                self.config |= {k: v for k, v in vars(options).items() if type(v) in plain}
        for name, value in tensors.items():
            tensor = opened.tensor(name, value)
            self._add(str(name), tensor.shape, partial(Tensor.detach, tensor))


class _Opened(Checkpoint):
    """A published network on the meta device; `names` gives its tensors by our slot."""

    def __init__(self, spec: EncoderSpec) -> None:
        from virnucpro.encoders.transformer import Dnabert, Esm2  # kernels take long to import

        super().__init__(spec.path)
        shapes = self.shapes
        self.names = {slot: n for n in sorted(shapes) if (slot := _slot_of(n, spec.kind))}
        rest = shapes.keys() - set(self.names.values())
        self._refuse("unexpected", (name for name in rest if not re.fullmatch(_IGNORED, name)))
        is_esm2 = spec.kind == "esm2"
        self.network: Encoder
        with torch.device("meta"), _Unfilled():
            sizes = self._sizes(is_esm2)
            self.network = Esm2(Esm2Shape(**sizes)) if is_esm2 else Dnabert(DnabertShape(**sizes))
        if self.network.dim != spec.dim:
            raise self._error(f"vectors have {self.network.dim} dimensions, not {spec.dim}")
        slots = _slots(self.network.named_parameters(), self.names)
        self._refuse("missing", slots.keys() - self.names.keys())
        self._refuse("unexpected", (self.names[slot] for slot in self.names.keys() - slots.keys()))
        for slot, tensor in slots.items():
            if (shape := shapes[self.names[slot]]) != (wanted := tuple(tensor.shape)):
                raise self._error(f"{self.names[slot]} is {shape}, wanted {wanted}")

    def read(self, slot: str, into: Tensor | None = None) -> None:
        """Read one of our tensors; it must be finite in its own numbers, or in those of `into`."""
        name = self.names[slot]
        try:
            tensor = self.readers[name]()
        except Exception as error:  # readers of two libraries; each has its own errors
            raise self._error(f"tensor {name} cannot be read: {error}") from error
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise self._error(f"{name} holds {tensor.dtype}, not plain floats")
        values = tensor if into is None else into.copy_(tensor)
        if not bool(torch.isfinite(values).all()):
            raise self._error(f"{name} has values that {values.dtype} cannot hold")

    def _sizes(self, is_esm2: bool) -> dict[str, Any]:
        """What the tensors say of the network; a configuration must not contradict them."""
        config, shapes = self.config, self.shapes
        numbers = {int(name.split(".")[1]) for name in self.names if name.startswith("layers.")}
        needed = ["embed.weight", f"layers.0.{'up' if is_esm2 else 'gate_up'}.weight"]
        found = [shapes.get(self.names.get(name, ""), ()) for name in needed]
        if any(len(shape) != 2 for shape in found):
            raise self._error(f"missing tensors: {', '.join(needed)}")
        if numbers != set(range(len(numbers))):
            raise self._error(f"layers are missing between 0 and {max(numbers)}")
        (vocab, dim), (rows, _), layers = *found, len(numbers)
        ffn = rows if is_esm2 else rows // 2
        said = {
            "hidden_size": dim, "encoder_embed_dim": dim, "num_hidden_layers": layers,
            "encoder_layers": layers, "intermediate_size": ffn,
            **({} if is_esm2 else {"vocab_size": vocab}),
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
        sizes = {"layers": layers, "dim": dim, "heads": heads, "ffn": ffn, "eps": float(eps)}
        if not is_esm2:
            types = shapes.get(self.names.get("token_types.weight", ""), (2,))
            return {**sizes, "vocab": vocab, "token_types": types[0]}
        rotary = config.get("position_embedding_type", "rotary") == "rotary"
        if config.get("emb_layer_norm_before") or not rotary:
            raise self._error("an ESM network, but not ESM-2")
        return {**sizes, "token_dropout": bool(config.get("token_dropout", True))}

    def _refuse(self, what: str, names: Iterable[str]) -> None:
        if listed := sorted(names):
            more = len(listed) - _NAMED_IN_MESSAGE
            text = ", ".join(listed[:_NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
            raise self._error(f"{what} tensors: {text}")

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"{self.source}: {problem}")
