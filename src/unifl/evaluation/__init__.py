"""Scores that judge: they share no weights and no training signal with the scores that train (arXiv 2404.05595 §4)."""
