"""The same iteration with less work: the fast engine, CUDA graphs, and the choice of an engine."""
