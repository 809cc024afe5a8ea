"""Mixtures: several sources as one, each in its exact share at every place."""
