"""Labelled FASTA to weights."""
