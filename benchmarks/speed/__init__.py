"""Time and memory compared with the textbook models and the limits of the machine."""
