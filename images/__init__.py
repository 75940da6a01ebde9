"""Container images of the steps, and the commands that make them: `python -m images --help`, docs/images.md.

Like `components` and `pipelines`, this folder runs from a checkout and stays out of the wheel.
"""
