"""Compression: one language model in few bytes, without training; each tensor by the codec that suits it."""
