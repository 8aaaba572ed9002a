"""Models: loading them, and what the engine learns of their geometry by tracing and by probing."""
