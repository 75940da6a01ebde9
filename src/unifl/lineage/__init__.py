"""From a model's weights back to every input: reading records, tracing them by SHA-256, showing and verifying the
trace."""
