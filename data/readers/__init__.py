"""Everything that knows a file format: readers of raw data, and what they share."""
