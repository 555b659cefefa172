"""Rollouts that runners carry out whole: submitted, fenced to the attempt that is under way, ended, cancelled."""
