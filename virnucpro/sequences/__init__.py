"""Room 1: sequence files to chunks to ORFs."""
