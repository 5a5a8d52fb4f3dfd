"""The stages in order, and where work is sent."""
