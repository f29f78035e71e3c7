"""Phase 7: experts, each the model with other singular values, a router that reads the prefix, and mixtures of them."""
