"""What runners call (`wire.placements`)."""
