"""A sweep: runs over a grid of settings, as an Optuna study that several processes and machines can share."""
