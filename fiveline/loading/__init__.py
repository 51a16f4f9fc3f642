"""Tools that a task may use to load its data faster."""
