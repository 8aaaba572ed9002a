"""Placeholder until levels by mpp are there."""


def at_mpp(url: str, mpp: float, tolerance: float = 0.05) -> str:
    """Return the url."""
    return url


def without_mpp(url: str) -> str:
    """Return the url."""
    return url
