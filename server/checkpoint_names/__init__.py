"""`tinker://RUN/weights/NAME`: names of checkpoints, for which use each is, who may use it, and until when."""
