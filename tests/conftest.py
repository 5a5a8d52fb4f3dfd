"""Puts this folder on the import path, for the helper modules beside it."""
