"""How much memory a base needs, for a trainer of so many ranks and for a sampler of so many: counted from the shapes of
its weights and from what a pass over them keeps, without any weights."""
