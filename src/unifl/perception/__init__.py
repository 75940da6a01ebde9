"""Frozen perception models: what looks at images while feedback is learnt (arXiv 2404.05595 §3.1, §3.2)."""
