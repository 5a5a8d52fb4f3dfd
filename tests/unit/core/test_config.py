"""Settings: every key known, environment over file over default."""

import pytest
import yaml

from virnucpro.core.config import (
    KEYS,
    Config,
    default_yaml,
    parse_flag,
    unknown_variables,
)
from virnucpro.core.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_default_file_holds_every_key_and_changes_nothing(write):
    loaded = Config.load(write(default_yaml()))
    assert [name for name, _, _ in loaded.items()] == list(KEYS)
    assert all(value == KEYS[name].default for name, value, _ in loaded.items())
    assert yaml.safe_load(default_yaml())["features"]["dnabert"] == {"batch_size": None}
    assert Config.load(write("")).get("device.name") == "auto"


def test_environment_goes_over_file_over_default(write):
    path = write("prediction: {batch_size: 7, num_workers: 8}\n")
    config = Config.load(path, {"VIRNUCPRO_PREDICTION_BATCH_SIZE": "9"})
    assert config.get("prediction.batch_size") == 9
    assert config.get("prediction.num_workers") == 8
    assert config.get("prediction.min_length") == 0
    sources = {name: source for name, _, source in config.items()}
    assert sources["prediction.batch_size"] == "VIRNUCPRO_PREDICTION_BATCH_SIZE"
    assert sources["prediction.num_workers"] == str(path)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("prediction: {batchsize: 1}", "prediction.batch_size"),
        ("predictions: {batch_size: 1}", "prediction.batch_size"),
        ("device: {nam: cpu}", "device.name"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(write, text, near):
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        Config.load(write(text))


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
def test_bad_file_is_a_configuration_error(write, text):
    with pytest.raises(ConfigError):
        Config.load(write(text))


def test_an_error_names_where_key_and_remedy(write):
    path = write("device: {dtype: float17}\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    for part in (str(path), "device.dtype", "float16", "float17"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="at least 1"):
        Config.load(None, {"VIRNUCPRO_PREDICTION_THREADS": "0"})
    with pytest.raises(ConfigError, match="prediction is a section"):
        Config.load(write("prediction: 3"))
    assert Config.load(write("prediction:\n")).get("prediction.threads") is None


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


@pytest.mark.parametrize(
    ("text", "value"), [("Yes", True), ("1", True), ("", False), ("no", False)]
)
def test_flags_are_read_as_words(text, value):
    assert parse_flag(text, "X") is value
