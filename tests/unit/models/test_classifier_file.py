"""Pickled weights are read without running them; anything hostile is refused by both readers."""

import contextlib
import functools
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_published import classifier_state
from torch import nn

from virnucpro.core.errors import ModelError
from virnucpro.encoders.load import read_checkpoint
from virnucpro.models.classifier_file import read_classifier

READERS = {"classifier": read_classifier, "encoder": read_checkpoint}
ADVICE = ("weights_only", "safe_globals", "allowlist", "torch.load")


@pytest.fixture(params=READERS, ids=list(READERS))
def refused(request):
    def read(path):
        before = sorted(path.parent.iterdir())
        with pytest.raises(ModelError) as caught:
            READERS[request.param](path)
        assert sorted(path.parent.iterdir()) == before
        assert str(path) in str(caught.value)
        assert not any(word in str(caught.value) for word in ADVICE)
        assert caught.value.__cause__ is None or "weights_only" not in str(caught.value.__cause__)
        let_in = str(torch.serialization.get_safe_globals())
        assert "MLPClassifier" not in let_in and "argparse" not in let_in
        return str(caught.value)

    return read


class MLPClassifier(nn.Module):
    def __init__(self, width=6, hidden=4):
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, 2)
        self.dropout = nn.Dropout(0.5)
        self.relu = nn.ReLU()


@pytest.fixture
def network(monkeypatch):
    """The published class as it was pickled: from a script."""
    monkeypatch.setattr(MLPClassifier, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "MLPClassifier", MLPClassifier, raising=False)
    torch.manual_seed(5)
    network = MLPClassifier()
    network.bn1.running_mean.uniform_(-1, 1)
    network.bn1.running_var.uniform_(0.5, 2)
    return network


def archive(path, data_pkl, blocks=(), kind=zipfile.ZIP_STORED, more=()):
    """A torch archive around any pickle; whatever is refused is refused for its content."""
    texts = [("data.pkl", data_pkl), ("version", b"3\n"), ("byteorder", b"little")]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as file:
        warnings.simplefilter("ignore")  # of repeated names
        for name, data in [*texts, *((f"data/{key}", block) for key, block in blocks), *more]:
            file.writestr(f"archive/{name}", data)
    return path


def legacy(path, data_pkl):
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001)]
    system = pickle.dumps({"little_endian": True, "type_sizes": {}, "protocol_version": 1001}, 2)
    path.write_bytes(b"".join([*parts, system, data_pkl, pickle.dumps([], 2)]))
    return path


CONTAINERS = {"zip": archive, "legacy": legacy}


def expected(network):
    state = network.state_dict()
    del state["bn1.num_batches_tracked"]
    return {name: tensor.numpy() for name, tensor in state.items()}


def save(content, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, **options)


OLD = {"_use_new_zipfile_serialization": False}
SAVERS = {
    "module": save,
    "state": lambda net, path: save(net.state_dict(), path),
    "nested": lambda net, path: save({"model_state_dict": net.state_dict()}, path),
    "older state": lambda net, path: save(net.state_dict(), path, **OLD),
    "double": lambda net, path: save(net.double().state_dict(), path),
    "safetensors": lambda net, path: save_file(expected(net), path),
}


@pytest.mark.parametrize("saver", SAVERS)
def test_every_published_form_gives_the_same_tensors(network, tmp_path, saver):
    wanted = expected(network)
    SAVERS[saver](network, tmp_path / "500_model.pth")
    kind, tensors = read_classifier(tmp_path / "500_model.pth")
    assert kind == "mlp"
    assert tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("options", [OLD, {"pickle_protocol": 4}], ids=["older", "protocol 4"])
def test_a_module_in_another_format_is_refused_with_its_remedy(network, tmp_path, options, refused):
    save(network, tmp_path / "m.pth", **options)
    assert "torch.save(model.state_dict(), FILE)" in refused(tmp_path / "m.pth")


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


HOSTILE = {
    "os.system": lambda bait: Call(os.system, f"touch {bait}"),
    "eval": lambda bait: Call(eval, f"open({str(bait)!r}, 'w')"),
    "getattr": lambda bait: Call(getattr, OrderedDict, "fromkeys"),
    "torch.load": lambda bait: Call(torch.load, str(bait)),
    "partial": lambda bait: Call(functools.partial, os.system, f"touch {bait}"),
    "hidden in a list": lambda bait: {"a": [(1, {"b": Call(os.system, f"touch {bait}")})]},
    "popen": lambda bait: Call(subprocess.getoutput, f"touch {bait}"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, kind, protocol, container, refused):
    bait = tmp_path / "bait"
    data = pickle.dumps(HOSTILE[kind](bait), protocol)
    why = refused(CONTAINERS[container](tmp_path / "m.pth", data))
    assert ("names " in why and "nothing of it was executed" in why) or protocol == 4
    assert not bait.exists()


def test_the_bait_is_real(tmp_path):
    pickle.loads(pickle.dumps(HOSTILE["os.system"](tmp_path / "bait")))
    assert (tmp_path / "bait").exists()


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
def test_a_hostile_module_inside_a_whole_network_is_refused(network, tmp_path, options, refused):
    network.extra = Call(os.system, f"touch {tmp_path / 'bait'}")
    save(network, tmp_path / "m.pth", **options)
    why = refused(tmp_path / "m.pth")
    assert options or "names __main__.MLPClassifier" in why or "names posix.system" in why
    assert not (tmp_path / "bait").exists()


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


TRICKS = {
    "attribute set on a class": glob("collections", "OrderedDict")
    + b"}X\x0c\x00\x00\x00__setstate__X\x01\x00\x00\x00xsb.",
    "state set on a function": glob("torch._utils", "_rebuild_parameter") + b"}b.",
    "a layer made with arguments": glob("__main__", "MLPClassifier") + b"K\x01\x85\x81.",
    "an ordered dict of a bomb": glob("collections", "OrderedDict") + b"]\x85R.",
    "a tensor of no storage": glob("torch._utils", "_rebuild_tensor_v2") + b"(K\x01K\x00))tR.",
    "an instance by name": b"(ios\nsystem\n.",
    "a global from the stack": b"\x8c\x02os\x8c\x06system\x93.",
    "dotted global": glob("torch.nn.modules.linear", "Linear.__init__.__globals__") + b".",
    "a long text that is not there": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "nothing": b"",
    "not a pickle": b"\xff\xfe\xfd",
    "a reference to a file": b"X\x0b\x00\x00\x00/etc/passwdQ.",
    "all memory": b"}X\x01\x00\x00\x00w" + glob("builtins", "bytearray") + b"\x8a\x06"
    + struct.pack("<q", 1 << 46)[:6] + b"\x85Rs.",
    "text that gives advice": glob("Please use torch.load", "weights_only=False") + b".",
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("trick", TRICKS)
def test_crafted_instructions_are_refused(tmp_path, trick, container):
    path = CONTAINERS[container](tmp_path / "m.pth", TRICKS[trick])
    with pytest.raises(ModelError):
        read_classifier(path)
    with contextlib.suppress(ModelError):
        assert read_checkpoint(path) == ({}, {})  # an empty table is no harm


ARCHIVES = {
    "compressed": ({"data_pkl": bytes(10_000), "kind": zipfile.ZIP_DEFLATED}, "compressed"),
    "long": ({"data_pkl": b"N" * ((4 << 20) + 1)}, "far more than weights need"),
    "repeated": ({"data_pkl": b"N.", "more": [("data.pkl", b"}.")]}, "repeated"),
    "many": ({"data_pkl": b"N.", "blocks": [(i, b"") for i in range(10_001)]}, "too many"),
    "script": ({"data_pkl": b"N.", "more": [("constants.pkl", b"N.")]}, "RuntimeError"),
    "big-endian": ({"data_pkl": b"N.", "more": []}, "holds a NoneType"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_odd_archives_are_refused(tmp_path, case, refused):
    options, why = ARCHIVES[case]
    assert why in refused(archive(tmp_path / "m.pth", **options))


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(4).to_sparse(), torch.zeros(4, dtype=torch.int32), torch.zeros(1).expand(4), "text"],
    ids=["sparse", "integers", "expanded", "text"],
)
def test_what_is_no_plain_tensor_of_floats_is_no_classifier(tmp_path, tensor):
    save(classifier_state() | {"hidden_layer.bias": tensor}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"hidden_layer\.bias|refused"):
        read_classifier(tmp_path / "m.pth")


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
def test_what_was_cut_is_refused_and_a_changed_byte_never_gives_other_shapes(tmp_path, options):
    """In an archive a changed number is found too; a legacy file has no checksums."""
    path, numbers, errors = tmp_path / "m.pth", random.Random(1), 0
    save(classifier_state(), path, **options)
    whole = path.read_bytes()
    _, wanted = read_classifier(path)
    for at in sorted(numbers.sample(range(len(whole)), 150)):
        path.write_bytes(whole[:at])
        with pytest.raises(ModelError, match=r"m\.pth"):
            read_classifier(path)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 85]) + whole[at + 1 :])
        try:
            kind, tensors = read_classifier(path)
        except ModelError:
            errors += 1
            continue
        assert kind == "mlp" and tensors.keys() == wanted.keys()
        for name, tensor in tensors.items():
            assert tensor.shape == wanted[name].shape
            assert options or (tensor == wanted[name]).all()
    assert errors > 20
