"""Feedback learning: start, denoise without a graph, one step with gradient, decode, score (arXiv 2404.05595 §3)."""
