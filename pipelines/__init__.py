"""The components composed into DAGs, where they run, and the commands around them (`python -m pipelines`)."""
