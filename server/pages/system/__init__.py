"""Trainers, samplers and disks, for operators."""
