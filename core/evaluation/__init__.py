"""From images to latents, clusters, scores and pictures."""
