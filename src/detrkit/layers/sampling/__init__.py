"""Sampling a few points of every level: the operator of deformable attention and its implementations."""
