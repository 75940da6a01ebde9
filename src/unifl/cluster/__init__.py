"""The cluster as steps see it: a tuning step on several processes (torchrun, or a TrainJob), the quota, the webhook."""
