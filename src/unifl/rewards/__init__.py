"""Reward models, one an axis: from votes on pairs to a differentiable score of an image (arXiv 2404.05595 §3.2)."""
