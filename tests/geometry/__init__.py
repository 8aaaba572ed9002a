"""Tests of integer geometry."""
