"""The FASTA files between stages, to the byte of the published ones."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.core.errors import InputError
from virnucpro.pipeline.input_pass import Rules, input_pass
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.fasta_files import read_fasta, write_fasta
from virnucpro.sequences.orfs import OrfPolicy

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
INPUTS = {
    "fixed500_broad": "fixed500_broad_input.fa",
    "fixed500_vanilla": "fixed500_vanilla_input.fa",
    "orfs_broad": "orfs_broad_input.fa",
    "orfs_vanilla": "orfs_vanilla_input.fa",
    "test_sequences_small": "test_sequences_small.fa",
}

needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the published outputs (shared/golden) are not beside the project"
)


def text_of(entries, **options):
    handle = io.StringIO()
    write_fasta(handle, entries, **options)
    return handle.getvalue()


def passed(name):
    """Chunk ids and letters, and ids, DNA and proteins of all ORFs of a published input."""
    chunks, dna, protein = [], [], []

    def keep(texts, more_dna, more_protein):
        chunks.extend(texts)
        dna.extend(letters.decode() for letters in more_dna)
        protein.extend(letters.decode() for letters in more_protein)

    records = read_records([GOLDEN / INPUTS[name]])
    *_, shard = input_pass(records, Rules(500, OrfPolicy("open-frame")), 10_000, on_block=keep)
    return list(zip(shard.chunk_ids(), chunks, strict=True)), shard.orf_ids(), dna, protein


@needs_golden
@pytest.mark.parametrize("name", INPUTS)
def test_chunks_are_written_as_published(name):
    chunks, *_ = passed(name)
    assert text_of(chunks, wrapped=True) == (GOLDEN / f"{name}_chunked500.fa").read_text()


@needs_golden
@pytest.mark.parametrize("name", [name for name in INPUTS if name != "test_sequences_small"])
def test_orfs_are_written_as_published(name):
    _, ids, dna, protein = passed(name)
    assert ids
    written = [text_of(zip(ids, letters, strict=True)) for letters in (dna, protein)]
    assert written[0] == (GOLDEN / f"{name}_orf_nucleotide.fa").read_text()
    assert written[1] == (GOLDEN / f"{name}_orf_protein.faa").read_text()


@needs_golden
def test_the_published_sequences_without_an_open_frame_give_none():
    chunks, ids, *_ = passed("test_sequences_small")
    assert (len(chunks), ids) == (11, [])


@pytest.mark.parametrize(
    ("length", "lines"), [(0, [0]), (1, [1]), (60, [60]), (61, [60, 1]), (120, [60, 60])]
)
def test_wrapped_lines_have_60_letters(length, lines):
    text = text_of([("x", "A" * length)], wrapped=True)
    assert text.startswith(">x\n")
    assert text.endswith("\n")
    assert [len(line) for line in text[3:-1].split("\n")] == lines
    assert text_of([("x", "A" * length)]) == ">x\n" + "A" * length + "\n"


entry = st.tuples(
    st.text("abcé/|\"'_.1", min_size=1, max_size=9), st.text("ACGTacgt", max_size=150)
)


@given(entries=st.lists(entry, max_size=6), wrapped=st.booleans())
def test_what_is_written_is_read_back(tmp_path_factory, entries, wrapped):
    path = tmp_path_factory.getbasetemp() / "between.fa"
    path.write_text(text_of(entries, wrapped=wrapped), encoding="utf-8", newline="\n")
    assert list(read_fasta(path)) == entries


@pytest.mark.parametrize("text", ["ACGT\n", None])
def test_a_file_that_is_not_ours_is_refused(tmp_path, text):
    path = tmp_path / "x.fa"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"x\.fa"):
        list(read_fasta(path))
