"""Active prompt selection (arXiv 2404.05595 §3.2 and Algorithm 2): scene graphs, semantic filter, compression, ANS."""
