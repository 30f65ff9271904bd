"""Measures the speed of training and prediction on this machine, and the machine's best rates."""
