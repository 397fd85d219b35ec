"""The ground: errors, files, devices, caches, executors, provenance. Knows nothing of flows."""
