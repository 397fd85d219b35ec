"""Pictures from a record, and the page that holds them."""
