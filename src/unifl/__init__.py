"""UniFL Pipelines: unified feedback learning for latent diffusion models (arXiv 2404.05595), from data to a few-step model.

The library knows nothing of Kubeflow or DVC; `unifl.steps` holds the steps that both of them run, `unifl.cli` the command line.
"""

__version__ = "0.1.0"
