"""Room 4: a batch to one vector per ORF."""
