"""What a user may pass for a problem: accepted with the right value, or refused in one sentence before any work."""
