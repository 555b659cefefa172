"""The guard of a model: its rules, its alarms, and what is done about them."""
