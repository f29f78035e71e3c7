"""Phase 1: models that share a trunk and differ by what they specialise in."""
