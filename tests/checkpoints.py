"""Tiny checkpoints in the published formats, filled with numbers from a frozen stream.

The rule of the numbers: the tensors of one network, in the order in which its function below
names them, come one after the other from `numpy.random.RandomState(seed)` (whose stream never
changes), standard normal, float32. Matrices are divided by the square root of their columns,
embeddings are taken as they are, norm weights are 1 + 0.1 x, biases are 0.1 x. One outlier is
planted, as trained networks have one: see `OUTLIER`.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from virnucpro.encoders.transformer import TransformerEncoder
from virnucpro.models.specs import DnabertShape, Esm2Shape

OUTLIER = 5
"""In this dimension the first layer adds 40 and the last norm 12."""


class _Stream:
    def __init__(self, seed: int) -> None:
        self.numbers = np.random.RandomState(seed)
        self.tensors: dict[str, Tensor] = {}

    def matrix(self, name: str, rows: int, columns: int) -> None:
        self._add(name, self._draw(rows, columns) / np.float32(columns**0.5))

    def embedding(self, name: str, rows: int, columns: int) -> None:
        self._add(name, self._draw(rows, columns))

    def linear(self, name: str, rows: int, columns: int) -> None:
        self.matrix(f"{name}.weight", rows, columns)
        self._add(f"{name}.bias", np.float32(0.1) * self._draw(rows))

    def norm(self, name: str, dim: int) -> None:
        self._add(f"{name}.weight", 1 + np.float32(0.1) * self._draw(dim))
        self._add(f"{name}.bias", np.float32(0.1) * self._draw(dim))

    def _draw(self, *shape: int) -> np.ndarray:
        return self.numbers.standard_normal(shape).astype(np.float32)

    def _add(self, name: str, values: np.ndarray) -> None:
        self.tensors[name] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def esm2_tensors(shape: Esm2Shape, seed: int) -> dict[str, Tensor]:
    stream = _Stream(seed)
    stream.embedding("embeddings.word_embeddings.weight", 33, shape.dim)
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        stream.norm(f"{layer}.attention.LayerNorm", shape.dim)
        for part in ("query", "key", "value"):
            stream.linear(f"{layer}.attention.self.{part}", shape.dim, shape.dim)
        stream.linear(f"{layer}.attention.output.dense", shape.dim, shape.dim)
        stream.norm(f"{layer}.LayerNorm", shape.dim)
        stream.linear(f"{layer}.intermediate.dense", shape.ffn, shape.dim)
        stream.linear(f"{layer}.output.dense", shape.dim, shape.ffn)
    stream.norm("encoder.emb_layer_norm_after", shape.dim)
    stream.tensors["encoder.layer.0.output.dense.bias"][OUTLIER] += 40
    stream.tensors["encoder.emb_layer_norm_after.bias"][OUTLIER] += 12
    return stream.tensors


def esm2_config(shape: Esm2Shape) -> dict[str, object]:
    return _sizes(shape) | {
        "model_type": "esm", "architectures": ["EsmForMaskedLM"], "vocab_size": 33,
        "token_dropout": shape.token_dropout, "position_embedding_type": "rotary",
        "emb_layer_norm_before": False, "hidden_act": "gelu", "max_position_embeddings": 1026,
        "pad_token_id": 1, "mask_token_id": 32, "hidden_dropout_prob": 0.0,
    }  # fmt: skip


def _sizes(shape: Esm2Shape | DnabertShape) -> dict[str, object]:
    return {
        "hidden_size": shape.dim, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "intermediate_size": shape.ffn,
        "layer_norm_eps": shape.eps, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


_FAIR = {
    "embeddings.word_embeddings": "embed_tokens",
    "encoder.emb_layer_norm_after": "emb_layer_norm_after",
    "encoder.layer": "layers",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}


def fair_esm_content(shape: Esm2Shape, tensors: dict[str, Tensor]) -> dict[str, object]:
    model = {}
    for name, tensor in tensors.items():
        for ours, theirs in _FAIR.items():
            name = name.replace(ours, theirs)
        model[f"encoder.sentence_encoder.{name}"] = tensor
    frequencies = 1.0 / 10000 ** (
        torch.arange(0, shape.dim // shape.heads, 2).float() * shape.heads / shape.dim
    )
    for i in range(shape.layers):
        model[f"encoder.sentence_encoder.layers.{i}.self_attn.rot_emb.inv_freq"] = frequencies
    head = "encoder.lm_head"
    model[f"{head}.weight"] = tensors["embeddings.word_embeddings.weight"]
    model[f"{head}.bias"] = torch.zeros(33)
    for part in ("dense", "layer_norm"):
        model[f"{head}.{part}.bias"] = torch.zeros(shape.dim)
    model[f"{head}.dense.weight"] = torch.eye(shape.dim)
    model[f"{head}.layer_norm.weight"] = torch.ones(shape.dim)
    options = argparse.Namespace(
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.dim,
        encoder_attention_heads=shape.heads,
        token_dropout=shape.token_dropout,
    )
    return {"cfg": {"model": options}, "model": model}


def dnabert_tensors(shape: DnabertShape, seed: int) -> dict[str, Tensor]:
    stream = _Stream(seed)
    stream.embedding("embeddings.word_embeddings.weight", shape.vocab, shape.dim)
    stream.embedding("embeddings.token_type_embeddings.weight", shape.token_types, shape.dim)
    stream.norm("embeddings.LayerNorm", shape.dim)
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        stream.linear(f"{layer}.attention.self.Wqkv", 3 * shape.dim, shape.dim)
        stream.linear(f"{layer}.attention.output.dense", shape.dim, shape.dim)
        stream.norm(f"{layer}.attention.output.LayerNorm", shape.dim)
        stream.matrix(f"{layer}.mlp.gated_layers.weight", 2 * shape.ffn, shape.dim)
        stream.linear(f"{layer}.mlp.wo", shape.dim, shape.ffn)
        stream.norm(f"{layer}.mlp.layernorm", shape.dim)
    stream.linear("pooler.dense", shape.dim, shape.dim)
    last = f"encoder.layer.{shape.layers - 1}"
    stream.tensors["encoder.layer.0.mlp.wo.bias"][OUTLIER] += 40
    stream.tensors[f"{last}.mlp.layernorm.bias"][OUTLIER] += 12
    return stream.tensors


def dnabert_config(shape: DnabertShape) -> dict[str, object]:
    return _sizes(shape) | {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": shape.vocab,
        "type_vocab_size": shape.token_types, "alibi_starting_size": 512, "pad_token_id": 0,
    }  # fmt: skip


def write_sharded(folder: Path, tensors, config, *, pickled=False, shards=2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    weight_map = {}
    for k in range(shards):
        content = {name: tensors[name] for name in sorted(tensors)[k::shards]}
        part = f"-{k + 1:05d}-of-{shards:05d}" if shards > 1 else ""
        weight_map |= dict.fromkeys(content, f"{stem}{part}.{suffix}")
        if pickled:
            torch.save(content, folder / f"{stem}{part}.{suffix}")
        else:
            save_file(content, folder / f"{stem}{part}.{suffix}", metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


write_safetensors = partial(write_sharded, shards=1)
write_bin = partial(write_sharded, shards=1, pickled=True)


def write_fair_esm(path: Path, shape: Esm2Shape, tensors: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(fair_esm_content(shape, tensors), path)
    return path


def hidden_states(encoder: TransformerEncoder, items) -> list[Tensor]:
    """Last hidden states of each sequence: n tensors (tokens, dim), in order; plain path."""
    layout = encoder.lay_out(items)
    rows = zip(layout.rows(encoder.hidden(layout)), layout.lengths.tolist(), strict=True)
    return [row[:length] for row, length in rows]
