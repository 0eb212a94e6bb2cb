"""The web demo of a checkpoint, and its export as a Hugging Face Space."""
