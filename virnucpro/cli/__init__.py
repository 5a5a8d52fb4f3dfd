"""Flags to frozen settings to one call; alone prints and exits."""
