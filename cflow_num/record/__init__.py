"""What a run leaves, and numbers read from it."""
