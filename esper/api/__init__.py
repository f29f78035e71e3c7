"""Esper from Python: what `import esper` offers beside networks. Each name is looked up when it is first used."""
