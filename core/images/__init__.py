"""Real images on their way to the training loop."""
