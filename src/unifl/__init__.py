"""UniFL Pipelines: unified feedback learning (arXiv 2404.05595), from data and preferences to a few-step model.

The library knows nothing of Kubeflow or DVC; `unifl.steps` holds the steps that both of them run, `unifl.cli` the
command line.
"""

__version__ = "0.1.0"
