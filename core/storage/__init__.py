"""What is on the disk: run folder, checkpoints, prediction files."""
