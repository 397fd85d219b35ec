"""Many runs over a grid of settings, their table and their figure."""
