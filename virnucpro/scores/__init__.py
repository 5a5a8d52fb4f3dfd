"""Merged rows to scores, and scores to calls."""
