"""Agents: processes in which the SDK drives rollouts, many of one team in each."""
