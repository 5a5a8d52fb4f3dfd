"""Puts this folder on the import path, for the helper modules beside it; settles made-up cases."""

import logging
import os

import pytest
from hypothesis import settings

# The same cases in every run, so that a failure is the change's own; the fuzzers look for new
# ones, and so does HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def logger_as_imported():
    """A command that ran in this process has set up its log; the next test must not see that."""
    yield
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "virnucpro":
            logging.getLogger(name).setLevel(logging.NOTSET)
    logger = logging.getLogger("virnucpro")
    logger.propagate = True
    for handler in list(logger.handlers):
        if not type(handler).__module__.startswith("_pytest"):
            logger.removeHandler(handler)
            handler.close()
