"""Language models made, merged, taught, quantised and compressed, in phases that hand on files alone."""
