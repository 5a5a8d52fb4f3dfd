"""Contigs -> chunks of equal length, overlapping a little."""

import numpy as np

from virnucpro.sequences.letters import reverse_complement

FEW_CHUNKS = 6  # the most of a contig that is cut into half as many again
# Shorter repeats at both ends come by chance and by primers; shorter contigs are no known circle.
SHORTEST_REPEAT, SHORTEST_CIRCLE = 20, 500
# A unit that is repeated in tandem (nt), the share of letters that its copies have in common, and
# the letters by which a second copy is found.
LONGEST_UNIT, LEAST_ALIKE, _UNIT_HEAD = 100, 0.8, 12
_WORD = 64  # so many letters tell the places of a circle apart
_LETTERS = [bytes([code]) for code in b"ACGTBDHKMNRSVWY"]


def chunk_windows(length: int, chunk_nt: int) -> list[tuple[int, int]]:
    """Cut a contig into half-open windows (nt) that cover all of it, the wider overlaps first.

    What they have too much is divided by the number of windows, not of gaps, so the last may be
    short: the published models saw their data cut this way (VirNucPro units.py).
    """
    if not (count := -(-length // chunk_nt)):
        return []
    surplus = count * chunk_nt - length
    overlap = surplus // count
    wider = surplus - overlap * (count - 1)
    starts = [k * (chunk_nt - overlap) - min(k, wider) for k in range(count)]
    return [(start, min(start + chunk_nt, length)) for start in starts]


def even_windows(length: int, chunk_nt: int) -> list[tuple[int, int]]:
    """Cut a contig into windows that are the same ones when it is read from its other end.

    Few chunks are half as many again: their mean hangs less on where the contig was cut.
    """
    count = -(-length // chunk_nt)
    if count < 2:
        return [(0, length)] if length else []
    if count <= FEW_CHUNKS:
        count = count * 3 // 2
    room = length - chunk_nt
    starts = [-(-k * room // (count - 1)) for k in range(count // 2)]
    middle = [(room // 2, length - room // 2)] if count % 2 else []
    mirrored = [(length - start - chunk_nt, length - start) for start in reversed(starts)]
    return [*((start, start + chunk_nt) for start in starts), *middle, *mirrored]


def circle_windows(circle: bytes, chunk_nt: int) -> list[tuple[int, int]]:
    """A circle's windows, the same wherever and on which strand it begins; some cross its end."""
    size = len(circle)
    count = -(-size // chunk_nt)
    count = count * 3 // 2 if 1 < count <= FEW_CHUNKS else count
    turned = reverse_complement(circle)
    around = circle + circle[:_WORD] + b"\n" + turned + turned[:_WORD]
    word = b""
    while len(word) < min(_WORD, size):
        word += next(letter for letter in _LETTERS if word + letter in around)
    origin, width = around.index(word), min(chunk_nt, size)
    is_forward = origin < size
    origin -= 0 if is_forward else size + min(_WORD, size) + 1
    starts = [origin + k * size // count for k in range(count)]
    if not is_forward:
        starts = [size - start - width for start in starts]
    return sorted((start % size, start % size + width) for start in starts)


def terminal_repeat(letters: bytes) -> int:
    """Bases that a contig begins and ends with, as assemblers leave them on circles (nt); else 0.

    Tandem repeats begin as they end, too: none over half of it, or of two letters.
    """
    size, head = len(letters), letters[:SHORTEST_REPEAT]
    if size < SHORTEST_CIRCLE or len(set(head)) < 3 or b"N" in head:
        return 0
    place = letters.find(head, 1)
    while place > 0 and letters[place:] != letters[: size - place]:
        place = letters.find(head, place + 1)
    return size - place if 2 * place >= size else 0


def tandem_unit(letters: bytes) -> int:
    """Length of the one unit that a sequence repeats, as joined adapters do (nt); else 0."""
    place = letters.find(letters[:_UNIT_HEAD], 1)
    if not 0 < place <= LONGEST_UNIT or 2 * place > len(letters):
        return 0
    all_letters = np.frombuffer(letters, dtype=np.uint8)
    return place if (all_letters[place:] == all_letters[:-place]).mean() >= LEAST_ALIKE else 0
