"""Tasks on data of the user's own."""
