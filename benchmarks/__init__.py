"""Side-by-side figures: ``python -m benchmarks [speed] [compare] [memory] [scale]``; results are kept beside this."""
