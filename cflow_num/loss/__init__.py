"""A loss and its derivatives: the problem, its weights, its parts, and what is refused or warned of."""
