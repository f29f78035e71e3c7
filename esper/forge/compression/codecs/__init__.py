"""Codecs, one small family a module; `esper.forge.compression.config` has their names and settings."""
