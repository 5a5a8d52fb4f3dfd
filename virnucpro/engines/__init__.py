"""Room 5: who batches, on one device."""
