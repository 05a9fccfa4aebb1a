"""What is in a log and a catalogue, and what of it would bite: numbers for 'llmrec data check'."""
