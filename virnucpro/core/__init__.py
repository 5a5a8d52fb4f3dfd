"""Nouns and guarantees that every room may use."""
