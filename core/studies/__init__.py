"""Several runs that answer one question: which of some seeds came out best, and how much do they differ."""
