"""The chapters of the theory, one a file; `recipe` puts them in their order."""
