"""Runs that are killed, met by errors of the disk, and damaged: what of them survives (docs/reliability.md)."""
