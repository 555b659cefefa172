"""A trainer of several ranks: PyTorch's own engine (torchrun, FSDP2) behind the same port as that of one."""
