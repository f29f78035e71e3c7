"""Phase 6: what a prompt does to a model, baked into its weights, so that it does it unprompted."""
