"""The web page of a checkpoint, and the folder of a Hugging Face Space."""
