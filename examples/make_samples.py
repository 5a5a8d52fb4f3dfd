"""Make the samples of docs/tutorial.md from demo.fa: mates of a poor sample, a phage in its host.

    python make_samples.py demo.fa

writes poor_1.fq.gz and poor_2.fq.gz, 1,000 pairs of 150 nt of which 10 are viral (their names say
which), and host.fa, where 6,000 bases of a phage stand between 5,000 and 3,000 of a bacterium.
"""

import gzip
import random
import sys
from pathlib import Path

PAIRS, VIRAL, READ_NT, FRAGMENT_NT = 1_000, 10, 150, 400
TURNED = str.maketrans("ACGT", "TGCA")


def main(demo: Path) -> None:
    """Write the files into the current directory."""
    contigs = {}
    for text in demo.read_text().split(">")[1:]:
        header, *lines = text.split("\n")
        contigs[header.split()[0]] = "".join(lines).upper()
    draw = random.Random(1)
    viral = [name for name in contigs if name.startswith(("influenza", "rabies", "phage"))]
    other = [name for name in contigs if name.startswith("coryne")]
    names = [draw.choice(viral) for _ in range(VIRAL)]
    names += draw.choices(other, [len(contigs[name]) for name in other], k=PAIRS - VIRAL)
    draw.shuffle(names)
    with gzip.open("poor_1.fq.gz", "wt") as first, gzip.open("poor_2.fq.gz", "wt") as second:
        for number, name in enumerate(names, start=1):
            start = draw.randrange(len(contigs[name]) - FRAGMENT_NT + 1)
            fragment = contigs[name][start : start + FRAGMENT_NT]
            if draw.random() < 0.5:
                fragment = fragment[::-1].translate(TURNED)
            mates = fragment[:READ_NT], fragment[::-1].translate(TURNED)[:READ_NT]
            for file, mate in zip((first, second), mates, strict=True):
                file.write(f"@pair_{number}_{name}\n{mate}\n+\n{'I' * READ_NT}\n")
    letters = "".join(contigs[name] for name in ("coryne_1", "phage_1", "coryne_2"))
    Path("host.fa").write_text(f">host a phage in a bacterium\n{letters}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
