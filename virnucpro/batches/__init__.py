"""Room 3: token ids to batches."""
