"""VirNucPro tells viral from non-viral DNA in short sequences: reads and contigs."""

__version__ = "2.0.0"
