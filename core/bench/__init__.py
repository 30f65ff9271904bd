"""Measures how fast training and prediction are here, and what the machine could do."""
