"""The trainable whole: both towers and the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from virnucpro.encoders.small import DnaTower, ProteinTower
from virnucpro.scores.classifier import MiniClassifier
from virnucpro.training.recipe import Recipe
from virnucpro.training.sampler import Windows


class MiniModel(nn.Module):
    """DNA encoder, protein encoder and classifier as one module."""

    def __init__(self, recipe: Recipe, kinds: int) -> None:
        super().__init__()
        self.dna = DnaTower(recipe.dna)
        self.protein = ProteinTower(recipe.protein)
        width = self.dna.dim + self.protein.dim
        self.classifier = MiniClassifier(width, recipe.hidden, kinds, recipe.dropout)

    def forward(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """Logits of other, virus, null (n, 3) and of the groups (n, kinds)."""
        dna = self.dna.embed(windows.bases, windows.lengths)
        protein = self.protein.embed(windows.residues, windows.residue_lengths)
        return self.classifier.both(torch.cat([dna, protein], dim=1))


def compile_blocks(model: MiniModel) -> None:
    """Fuse the parts that repeat; shapes stay free, so buckets share one compilation."""
    torch._dynamo.config.recompile_limit = 64  # one graph for each width and dilation
    for tower in (model.dna.tower, model.protein.tower):
        for part in (tower.stem, *tower.blocks, tower.pool):
            part.compile(dynamic=True)
