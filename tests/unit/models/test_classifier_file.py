"""Pickled weights are read without running them; anything hostile is refused, and runs nothing.

`read_classifier` and `open_checkpoint` stand on one reader, so both must refuse every file here.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import struct
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_published import classifier_state
from torch import nn

from virnucpro.core.errors import ModelError
from virnucpro.encoders.weights import open_checkpoint
from virnucpro.models.classifier_file import import_classifier, read_classifier

READERS = {"classifier": read_classifier, "encoder": open_checkpoint}
ADVICE = ("weights_only", "safe_globals", "allowlist", "torch.load")


@pytest.fixture(params=READERS, ids=list(READERS))
def refused(request):
    """Reads a file that must be refused; returns why."""

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
    import_classifier(tmp_path / "500_model.pth", tmp_path / "classifier.safetensors")
    tensors = load_file(tmp_path / "classifier.safetensors")
    assert tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("options", [OLD, {"pickle_protocol": 4}], ids=["older", "protocol 4"])
def test_a_module_in_another_format_is_refused_with_its_remedy(network, tmp_path, options, refused):
    save(network, tmp_path / "m.pth", **options)
    assert "torch.save(model.state_dict(), FILE)" in refused(tmp_path / "m.pth")


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


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, kind, protocol, container, refused):
    bait = tmp_path / "bait"
    data = pickle.dumps(hostile(kind, bait), protocol)
    why = refused(CONTAINERS[container](tmp_path / "m.pth", data))
    assert ("names " in why and "nothing of it was executed" in why) or protocol == 4
    assert not bait.exists()


def test_the_bait_is_real(tmp_path):
    pickle.loads(pickle.dumps(hostile("os.system", tmp_path / "bait")))
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
    "a class of another module": glob("argparse", "ArgumentParser") + b")R.",
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
        assert open_checkpoint(path).shapes == {}  # an empty table is no harm


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
    checkpoint = open_checkpoint(archive(tmp_path / "m.pth", tensor_of(4), [("0", bytes(16))]))
    assert checkpoint.read("w").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "numbers",
    [
        {"count": 1 << 39},
        {"count": 1000},
        {"count": 2, "size": 2},
        {"count": 4, "size": 1 << 39},
        {"count": 4, "offset": 1 << 39},
        {"count": 4, "offset": 1},
        {"count": 4, "size": -1},
        {"count": 4, "offset": -1},
        {"count": 4, "stride": 0},
        {"count": 4, "stride": 2},
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, numbers):
    path = archive(tmp_path / "m.pth", tensor_of(**numbers), [("0", bytes(16))])
    with pytest.raises(ModelError, match=r"not whole|damaged|row by row"):
        read_classifier(path)


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


def test_an_archive_of_files_is_refused(tmp_path, refused):
    with tarfile.open(tmp_path / "m.pth", "w") as tar:
        tar.addfile(tarfile.TarInfo("../storages"), io.BytesIO(b""))
    refused(tmp_path / "m.pth")


class Stateful(nn.Parameter):
    """Pickles as a parameter whose attributes stand in for methods."""

    def __reduce_ex__(self, _):
        state = {"detach": OrderedDict}
        rebuild = torch._utils._rebuild_parameter_with_state
        return rebuild, (torch.zeros(4), False, OrderedDict(), state)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(4).to_sparse(),
        torch.zeros(4, device="meta"),
        Stateful(torch.zeros(4)),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(4, dtype=torch.bfloat16),
        torch.zeros(4, dtype=torch.int32),
        torch.zeros(1).expand(4),
        "text",
    ],
    ids=["sparse", "meta", "stateful", "complex", "bfloat16", "integers", "expanded", "text"],
)
def test_what_is_no_plain_tensor_of_floats_is_no_classifier(tmp_path, tensor):
    save(classifier_state() | {"hidden_layer.bias": tensor}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"hidden_layer\.bias|refused"):
        read_classifier(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_layer.bias", np.full(4, np.nan, np.float32), "not finite"),
        ("hidden_layer.weight", np.full((4, 6), np.inf, np.float32), "not finite"),
        ("hidden_layer.bias", np.zeros(5, np.float32), "shape"),
        ("bn1.running_var", np.full(4, -1, np.float32), "negative"),
        ("another.weight", np.zeros(4, np.float32), "another.weight"),
    ],
)
def test_odd_tensors_are_named(network, tmp_path, name, value, message):
    save_file(expected(network) | {name: value}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=message):
        read_classifier(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: setattr(net.bn1, "eps", 1e-3), "epsilon"),
        (lambda net: setattr(net.bn1, "eps", torch.ones(2)), "epsilon"),
        (lambda net: net.hidden_layer.add_module("a", nn.Linear(1, 1)), "missing or unknown"),
        (lambda net: net.__dict__.__setitem__("_buffers", [1]), "not the layers"),
    ],
)
def test_odd_modules_are_refused(network, tmp_path, change, message):
    change(network)
    save(network, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=message):
        read_classifier(tmp_path / "m.pth")


def mutated(data, numbers):
    data = bytearray(data)
    for _ in range(numbers.randint(1, 4)):
        at, what = numbers.randrange(len(data)), numbers.random()
        if what < 0.6:
            data[at] = numbers.randrange(256)
        elif what < 0.8 and len(data) > 20:
            del data[at : at + numbers.randint(1, 9)]
        else:
            data[at:at] = numbers.randbytes(numbers.randint(1, 5))
    return bytes(data)


def in_zip(whole, numbers):
    """Damage inside the pickle, with checksums that fit."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, mutated(data, numbers) if name.endswith("data.pkl") else data)
    return file.getvalue()


@pytest.mark.parametrize("form", ["pickle in a zip", "zip", "legacy", "head of legacy", "cut"])
def test_damage_is_an_error_or_tensors(tmp_path, form):
    """In an archive a changed number is found too; a legacy file has no checksums."""
    numbers = random.Random(form)
    buffer = io.BytesIO()
    save(classifier_state(), buffer, **({} if "zip" in form or form == "cut" else OLD))
    whole = buffer.getvalue()
    wanted = {name: t.numpy() for name, t in classifier_state().items() if t.ndim}
    errors = 0
    for _ in range(200):
        if form == "pickle in a zip":
            data = in_zip(whole, numbers)
        elif form == "cut":
            data = whole[: numbers.randrange(len(whole) - 1)]
        else:
            head = 900 if form.startswith("head") else len(whole)
            data = mutated(whole[:head], numbers) + whole[head:]
        (tmp_path / "m.pth").write_bytes(data)
        with contextlib.suppress(ModelError):
            checkpoint = open_checkpoint(tmp_path / "m.pth")
            assert [checkpoint.read(name).shape for name in checkpoint.shapes]
        try:
            kind, tensors = read_classifier(tmp_path / "m.pth")
        except ModelError as error:
            errors += 1
            assert "m.pth" in str(error)
            continue
        assert kind == "mlp"
        assert {n: a.shape for n, a in tensors.items()} == {n: a.shape for n, a in wanted.items()}
        if form == "zip":
            assert all((tensors[name] == array).all() for name, array in wanted.items())
    assert errors > 20
