"""Tissue: which part of a slide is worth computing."""
