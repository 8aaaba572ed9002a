"""Integer geometry: where voxels are, and which of them a model needs. Knows no zarr, torch, dask or ray."""
