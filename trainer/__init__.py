"""The trainer plane: one base model, many LoRAs, worked off the op log. Importing this package imports no torch."""
