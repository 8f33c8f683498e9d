"""Right answers and known mistakes of the exercises, a module per chapter (see `exercises`)."""
