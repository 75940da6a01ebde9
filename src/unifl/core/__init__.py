"""What every room of the project stands on: errors, digests, whole files, settings, progress and the hook around steps.

Imports nothing else of the project and nothing heavy, so that the command line answers at once.
"""
