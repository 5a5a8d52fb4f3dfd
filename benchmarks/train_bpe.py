"""Train a byte pair encoding of the published form, for benchmarks where that is not at hand.

The published DNABERT-S tokenizer has 4,096 entries (five special tokens first) learnt from whole
genomes, and no pre-tokenizer that would cut DNA. This trains one of the same form and says how
many tokens it makes of 499 nt. Needs `tokenizers`, nothing else.

    python benchmarks/train_bpe.py ../shared/data/train_*.fa.xz -o .bench/tokenizer.json \
        --windows .bench/windows.fa
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
VOCABULARY = 4_096
WINDOW_NT = 499
PIECE_NT = 1_000  # a piece is one "word"; longer ones only cost time


def main() -> None:
    args = parse_arguments()
    random.seed(args.seed)
    pieces = [piece for path in args.fasta for piece in sample(path, args.megabases)]
    tokenizer = train(pieces)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.output))
    windows = [p[:WINDOW_NT] for p in pieces if len(p) >= WINDOW_NT]
    random.shuffle(windows)
    windows = windows[: args.count]
    if args.windows:
        args.windows.write_text("".join(f">w{i}\n{w}\n" for i, w in enumerate(windows)))
    counts = sorted(len(e.ids) for e in tokenizer.encode_batch(windows))
    mean = sum(counts) / len(counts)
    tell = {
        "entries": tokenizer.get_vocab_size(),
        "windows": len(windows),
        "window_nt": WINDOW_NT,
        "mean_tokens": round(mean, 2),
        "p01_p50_p99": [counts[len(counts) * q // 100] for q in (1, 50, 99)],
    }
    print(json.dumps(tell))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fasta", nargs="+", type=Path, help="FASTA, plain or .xz")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--windows", type=Path, help=f"also write pieces of {WINDOW_NT} nt here")
    parser.add_argument("--count", type=int, default=20_000, help="windows to count and write")
    parser.add_argument("--megabases", type=float, default=8.0, help="from each file")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def train(pieces: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIALS, initial_alphabet=list("ACGT")
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def sample(path: Path, megabases: float) -> Iterator[str]:
    """Pieces without N from evenly spread places of a file."""
    pieces = [piece for record in records(path) for piece in cut(record)]
    random.shuffle(pieces)
    yield from pieces[: int(megabases * 1e6 / PIECE_NT)]


def cut(sequence: str) -> Iterator[str]:
    for start in range(0, len(sequence) - WINDOW_NT, PIECE_NT):
        piece = sequence[start : start + PIECE_NT]
        if len(piece) >= WINDOW_NT and set(piece) <= set("ACGT"):
            yield piece


def records(path: Path) -> Iterator[str]:
    opened = lzma.open if path.suffix == ".xz" else open
    lines: list[str] = []
    with opened(path, "rt") as file:
        for line in file:
            if line.startswith(">"):
                yield "".join(lines)
                lines = []
            else:
                lines.append(line.strip())
    yield "".join(lines)


if __name__ == "__main__":
    main()
