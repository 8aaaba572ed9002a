"""Volumes on disk: opened, described, filled, ingested. The floor that knows zarr and the formats of the fields."""
