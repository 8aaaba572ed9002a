"""The run: dask schedules, actors or a plain loop work, events tell."""
