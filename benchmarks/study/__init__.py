"""The study: every training, cell and comparison behind docs/results.md (arXiv 2404.05595 §4 on the embedded model)."""
