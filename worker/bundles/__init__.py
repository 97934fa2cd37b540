"""Bundles: what a model says of itself, verified before anything of it is opened."""
