"""Mechanisms that no single paper owns."""
