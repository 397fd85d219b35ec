"""Other closures of the same averages than the central flow, one a module: what is kept of the oscillation, and how."""
