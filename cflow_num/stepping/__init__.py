"""The methods, one a file: how a flow is integrated, and how a process starts."""
