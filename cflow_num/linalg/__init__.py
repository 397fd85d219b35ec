"""Small dense and block algebra: symmetric matrices, complementarity, eigenpairs, exponentials, precision."""
