"""Settings: every key known, environment over file over default."""

import pytest

from virnucpro.core.config import (
    Config,
    unknown_variables,
)
from virnucpro.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("prediction: {batchsize: 1}", "prediction.batch_size"),
        ("predictions: {batch_size: 1}", "prediction.batch_size"),
        ("device: {nam: cpu}", "device.name"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(put, text, near):
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        Config.load(put(text))


@pytest.mark.parametrize(
    "text",
    [
        *(f"prediction: {{batch_size: {value}}}" for value in ("many", -1, 0, "true", 10**16)),
        "prediction: {sequences_per_file: 0}", "prediction: {expected_length: 29}",
        "prediction: {model_type: maxi}", "features: {esm: {toks_per_batch: 0}}",
        "logging: {format: xml}", "progress: {enabled: perhaps}", "device: {name: [cpu]}",
        "[1, 2]", "a: b: c", "\x00", "!!python/object/apply:os.system ['true']",
    ],
)  # fmt: skip
def test_bad_file_is_a_configuration_error(put, text):
    with pytest.raises(ConfigError):
        Config.load(put(text))


def test_an_error_names_where_key_and_remedy(put):
    path = put("device: {dtype: float17}\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    for part in (str(path), "device.dtype", "float16", "float17"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="at least 1"):
        Config.load(None, {"VIRNUCPRO_PREDICTION_THREADS": "0"})
    with pytest.raises(ConfigError, match="prediction is a section"):
        Config.load(put("prediction: 3"))
    assert Config.load(put("prediction:\n")).get("prediction.threads") is None


def test_short_names_of_variables_go_before_long_ones():
    given = {"VIRNUCPRO_MODEL_DIR": "/a", "VIRNUCPRO_MODELS_HOME": "/b", "VIRNUCPRO_OFFLINE": "1"}
    config = Config.load(None, given)
    assert (str(config.get("models.home")), config.get("models.offline")) == ("/a", True)
    sources = {name: source for name, _, source in config.items()}
    assert sources["models.home"] == "VIRNUCPRO_MODEL_DIR"
    assert unknown_variables({**given, "VIRNUCPRO_V1_ATTENTION": "", "HOME": "/"}) == []
    assert unknown_variables({"VIRNUCPRO_DEVICE_NAM": "cpu"}) == [
        ("VIRNUCPRO_DEVICE_NAM", "VIRNUCPRO_DEVICE_NAME")
    ]
