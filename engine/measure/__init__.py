"""Comparing a result with a reference, blockwise over volumes of any size, with exact sums."""
