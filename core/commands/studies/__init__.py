"""The commands about several runs: comparisons of seeds, of numbers of clusters, and of any runs."""
