"""Flows, one a file: what they have in common in `base`, the stable flow, the central flow."""
