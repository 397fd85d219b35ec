"""Steps and what they are checked on: exact values at drawn points."""
