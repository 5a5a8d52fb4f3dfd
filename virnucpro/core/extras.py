"""What may be installed beside the core, and which extra brings it."""

EXTRA_OF = {  # by the name that is imported
    "torch": "published", "tokenizers": "published", "h5py": "published",
    "huggingface_hub": "published", "pysam": "bam", "pynvml": "gpu",
    "ray": "ray", "obstore": "cloud", "pandas": "pandas",
}  # fmt: skip


def version_of(distribution: str) -> str:
    """The installed version; empty where there is none."""
    from importlib import metadata  # takes longer to load than `--version` to answer

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
