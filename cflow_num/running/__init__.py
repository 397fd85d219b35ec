"""Making a run: processes are prepared, started, advanced in chunks, recorded, kept."""
