"""A classifier is read without running its pickle; anything hostile is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from virnucpro.core.errors import ModelError
from virnucpro.models.classifier_file import import_classifier, read_classifier
from virnucpro.models.unpickle import read_torch_file


class MLPClassifier(nn.Module):
    def __init__(self, width=6, hidden=4):
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, 2)
        self.dropout = nn.Dropout(0.5)


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


def archive(path, data_pkl, blocks=(), kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("archive/data.pkl", data_pkl)
        for key, block in blocks:
            file.writestr(f"archive/data/{key}", block)
    return path


def expected(network):
    state = network.state_dict()
    del state["bn1.num_batches_tracked"]
    return {name: tensor.numpy() for name, tensor in state.items()}


def save_legacy(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(network, path, _use_new_zipfile_serialization=False)


def save_state(network, path):
    torch.save(network.state_dict(), path)


def save_nested(network, path):
    torch.save({"model_state_dict": network.state_dict()}, path)


def save_new(network, path):
    torch.save(network.state_dict(), path, pickle_protocol=4)


def save_safetensors(network, path):
    save_file(expected(network), path)


SAVERS = [torch.save, save_legacy, save_state, save_nested, save_new, save_safetensors]


@pytest.mark.parametrize("save", SAVERS)
def test_every_published_form_gives_the_same_tensors(network, tmp_path, save):
    save(network, tmp_path / "500_model.pth")
    import_classifier(tmp_path / "500_model.pth", tmp_path / "classifier.safetensors")
    tensors = load_file(tmp_path / "classifier.safetensors")
    assert tensors.keys() == expected(network).keys()
    for name, array in expected(network).items():
        np.testing.assert_array_equal(tensors[name], array)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile(kind, bait):
    touch = f"touch {bait}"
    return {
        "os.system": lambda: Call(os.system, touch),
        "eval": lambda: Call(eval, f"open({str(bait)!r}, 'w')"),
        "getattr": lambda: Call(getattr, OrderedDict, "fromkeys"),
        "torch.load": lambda: Call(torch.load, str(bait)),
        "partial": lambda: Call(__import__("functools").partial, os.system, touch),
        "hidden in a list": lambda: {"a": [(1, {"b": Call(os.system, touch)})]},
        "popen": lambda: Call(__import__("subprocess").getoutput, touch),
    }[kind]()


HOSTILE = ["os.system", "eval", "getattr", "torch.load", "partial", "hidden in a list", "popen"]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, kind, protocol):
    bait = tmp_path / "bait"
    path = archive(tmp_path / "m.pth", pickle.dumps(hostile(kind, bait), protocol))
    with pytest.raises(ModelError, match="nothing of it was executed"):
        import_classifier(path, tmp_path / "out.safetensors")
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_bait_is_real(tmp_path):
    pickle.loads(pickle.dumps(hostile("os.system", tmp_path / "bait")))
    assert (tmp_path / "bait").exists()


def test_a_hostile_module_inside_a_whole_network_is_named(network, tmp_path):
    network.extra = Call(os.system, f"touch {tmp_path / 'bait'}")
    torch.save(network, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"names (posix|nt)\.system"):
        read_classifier(tmp_path / "m.pth")
    assert not (tmp_path / "bait").exists()


def test_a_hostile_legacy_file_is_refused(network, tmp_path):
    network.extra = Call(os.system, f"touch {tmp_path / 'bait'}")
    save_legacy(network, tmp_path / "m.pth")
    with pytest.raises(ModelError, match="refused"):
        read_classifier(tmp_path / "m.pth")
    assert not (tmp_path / "bait").exists()


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


NAMED_OBJECT = glob("__main__", "MLPClassifier") + b")\x81"
TRICKS = {
    "attribute set on a class": glob("collections", "OrderedDict")
    + b"}X\x0c\x00\x00\x00__setstate__X\x01\x00\x00\x00xsb.",
    "state set on a function": glob("torch._utils", "_rebuild_parameter") + b"}b.",
    "state that is no dict": NAMED_OBJECT + b"K\x01b.",
    "a layer called with arguments": glob("__main__", "MLPClassifier") + b"K\x01\x85R.",
    "a layer made with arguments": glob("__main__", "MLPClassifier") + b"K\x01\x85\x81.",
    "an ordered dict of a bomb": glob("collections", "OrderedDict") + b"]\x85R.",
    "a string called": b"X\x02\x00\x00\x00os)R.",
    "a tensor of no storage": glob("torch._utils", "_rebuild_tensor_v2") + b"(K\x01K\x00))tR.",
    "an instance by name": b"(ios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a global from the stack": b"\x8c\x02os\x8c\x06system\x93.",
    "a name with an odd escape": glob("\\ollections", "OrderedDict") + b")R.",
    "dotted global": glob("torch.nn.modules.linear", "Linear.__init__.__globals__") + b".",
    "an unknown layer": glob("torch.nn.modules.linear", "Bilinear") + b".",
    "a dictionary with tuple keys": b"}))\x85\x85K\x01s.",
    "a long text that is not there": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "an empty stack": b"0.",
    "nothing": b"",
    "no end": b"K\x01",
    "not a pickle": b"\xff\xfe\xfd",
    "a reference to a file": b"X\x0b\x00\x00\x00/etc/passwdQ.",
    "memo that is not there": b"h\x07.",
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_crafted_instructions_are_refused(tmp_path, trick, container):
    path = tmp_path / "m.pth"
    if container == "zip":
        archive(path, TRICKS[trick])
    else:
        start = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001)]
        system = pickle.dumps({"little_endian": True}, 2)
        path.write_bytes(b"".join([*start, system, TRICKS[trick], pickle.dumps([], 2)]))
    with pytest.raises(ModelError):
        read_classifier(path)


def storage_of(count, key="0"):
    return (
        b"(X\x07\x00\x00\x00storage"
        + glob("torch", "FloatStorage")
        + b"X\x01\x00\x00\x00"
        + key.encode()
        + b"X\x03\x00\x00\x00cpu\x8a\x06"
        + struct.pack("<q", count)[:6]
        + b"tQ"
    )


def tensor_of(count, offset=0, size=4, stride=1):
    numbers = [b"\x8a\x06" + struct.pack("<q", value)[:6] for value in (offset, size, stride)]
    return (
        b"}X\x01\x00\x00\x00w"
        + glob("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage_of(count)
        + b"%s%s\x85%s\x85\x89}tRs." % tuple(numbers)
    )


def test_the_crafted_tensor_is_sound_when_its_numbers_are(tmp_path):
    path = archive(tmp_path / "m.pth", tensor_of(4), [("0", bytes(16))])
    tree, read = read_torch_file(path)
    np.testing.assert_array_equal(read(tree["w"]), np.zeros(4, np.float32))


@pytest.mark.parametrize(
    "tensor",
    [
        tensor_of(1 << 39),
        tensor_of(4, size=1 << 39),
        tensor_of(4, offset=1 << 39),
        tensor_of(4, offset=1),
        tensor_of(4, size=-1),
        tensor_of(4, offset=-1),
        tensor_of(4, stride=0),
        tensor_of(4, stride=2),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, tensor):
    with pytest.raises(ModelError):
        tree, read = read_torch_file(archive(tmp_path / "m.pth", tensor, [("0", bytes(16))]))
        read(tree["w"])


def test_archive_bombs_are_refused(tmp_path):
    squeezed = archive(tmp_path / "a.pth", bytes(10_000), kind=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="compressed"):
        read_torch_file(squeezed)
    long = archive(tmp_path / "b.pth", b"N" * ((1 << 20) + 1))
    with pytest.raises(ModelError, match="weights need a few thousand"):
        read_torch_file(long)


@pytest.mark.parametrize("damage", range(0, 3000, 97))
def test_a_damaged_file_is_an_error_or_the_same_tensors(network, tmp_path, damage):
    torch.save(network, tmp_path / "m.pth")
    data = bytearray((tmp_path / "m.pth").read_bytes())
    data[damage % len(data)] ^= 0xFF
    (tmp_path / "m.pth").write_bytes(data)
    try:
        tensors = read_classifier(tmp_path / "m.pth")
    except ModelError:
        return
    for name, array in expected(network).items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_layer.bias", np.full(4, np.nan, np.float32), "not finite"),
        ("hidden_layer.bias", np.zeros(5, np.float32), "shape"),
        ("bn1.running_var", np.full(4, -1, np.float32), "negative"),
        ("another.weight", np.zeros(4, np.float32), "another.weight"),
    ],
)
def test_odd_tensors_are_named(network, tmp_path, name, value, message):
    save_file(expected(network) | {name: value}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=message):
        read_classifier(tmp_path / "m.safetensors")


def test_a_cut_file_is_refused(network, tmp_path):
    whole = io.BytesIO()
    torch.save(network, whole)
    for length in (0, 1, 9, 100, len(whole.getvalue()) - 30):
        (tmp_path / "m.pth").write_bytes(whole.getvalue()[:length])
        with pytest.raises(ModelError):
            read_classifier(tmp_path / "m.pth")
