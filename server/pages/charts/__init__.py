"""Curves of models: which figures there are, how a chart is asked for, several models on one chart, and their CSV."""
