"""Phase 5: problems with verifiers, level by level, as the model comes to answer them."""
