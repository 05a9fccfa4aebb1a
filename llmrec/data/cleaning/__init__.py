"""Cleaning a log and a catalogue, every step counted."""
