"""Measurements of what the library promises about speed and memory. Users do not get this folder."""
