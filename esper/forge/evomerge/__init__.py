"""Cognates of one trunk merged into one model, by fixed methods and by search over how much each one gives."""
