"""The laws of a prior."""
