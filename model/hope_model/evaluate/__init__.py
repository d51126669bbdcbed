"""Measuring a checkpoint on local files."""
