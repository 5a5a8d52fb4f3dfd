"""Room 6: merged rows to calls."""
