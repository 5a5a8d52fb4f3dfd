"""Room 7: calls to what people look at."""
