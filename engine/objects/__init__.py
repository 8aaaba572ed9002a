"""Objects: instances found in a result that are the same whichever block they fall in, measured and written."""
