"""Collections: many slides through one pool of workers."""
