"""Room 2: ORFs to token ids."""
