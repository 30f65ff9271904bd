"""A mixture of generalized normal distributions as a prior for mpcc."""
