"""Many small volumes: items as a batch, no tiling, a table of what each gave."""
