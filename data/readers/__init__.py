"""Readers of raw data, one for each file format, and their shared helpers."""
