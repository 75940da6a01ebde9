"""Tuning steps on several processes: torchrun on the GPUs of one pod, a Kubeflow TrainJob on several nodes."""
