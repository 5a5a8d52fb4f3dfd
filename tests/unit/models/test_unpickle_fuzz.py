"""Random damage to classifier files: an error that says so, or tensors; never anything else."""

from __future__ import annotations

import io
import random
import warnings
import zipfile

import pytest
import torch
from tiny_published import classifier_state

from virnucpro.core.errors import ModelError
from virnucpro.models.classifier_file import read_classifier

CASES = 300


def saved(**options):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(classifier_state(), file, **options)
    return file.getvalue()


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


@pytest.mark.parametrize("form", ["pickle in a zip", "zip", "legacy", "head of legacy"])
def test_damage_is_an_error_or_tensors(tmp_path, form):
    numbers = random.Random(form)
    whole = saved(_use_new_zipfile_serialization="zip" in form)
    outcomes = {"error": 0, "tensors": 0}
    for _ in range(CASES):
        if form == "pickle in a zip":
            data = in_zip(whole, numbers)
        else:
            head = 900 if form.startswith("head") else len(whole)
            data = mutated(whole[:head], numbers) + whole[head:]
        (tmp_path / "m.pth").write_bytes(data)
        try:
            tensors = read_classifier(tmp_path / "m.pth")
        except ModelError as error:
            outcomes["error"] += 1
            assert "m.pth" in str(error)
        else:
            outcomes["tensors"] += 1
            assert {name: array.shape for name, array in tensors.items()} == {
                name: tuple(tensor.shape)
                for name, tensor in classifier_state().items()
                if tensor.ndim
            }
    assert outcomes["error"] > CASES / 10
