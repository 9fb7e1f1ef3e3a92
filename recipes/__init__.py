"""Recipes: what to run, and what was found on record."""
