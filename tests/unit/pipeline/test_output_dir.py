"""What somebody else left in an output directory is not touched."""

import pytest

from virnucpro.core.errors import UsageError
from virnucpro.pipeline.output_dir import working_in


@pytest.mark.parametrize("record", ["{}", '{"tool": "virnucpro", "format": 1}'])
def test_a_run_json_of_others_is_refused_even_with_force(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    with (
        pytest.raises(UsageError, match=r"run\.json is there already"),
        working_in(tmp_path, resume=False, force=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
