"""Puts this folder on the import path, for the helper modules beside it; settles made-up cases."""

import os

from hypothesis import settings

# The same cases in every run, so that a failure is the change's own; the fuzzers look for new
# ones, and so does HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
