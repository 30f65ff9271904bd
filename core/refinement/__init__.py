"""Clusters of a trained run made sharper: small classifiers on what its networks have learned."""
