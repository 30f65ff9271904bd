"""Layers for authors of architectures: spectral norm, grouped batch norm, fused convolutions."""
