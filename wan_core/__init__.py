"""Wan2.2 in PyTorch: see README.md in this folder, and pipeline.py to start reading."""
