"""What operators do: teams, keys of all teams, bases, planes, any model."""
