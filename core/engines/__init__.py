"""The same iteration with less work: the fast engine, CUDA graphs, and which engine to take."""
