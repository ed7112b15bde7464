"""Matching queries to objects."""
