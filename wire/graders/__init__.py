"""Graders as OpenAI's fine-tuning API describes them: their shapes, templates and formulas.

Servers check them when a job is made; the environment that comes with runners grades by them
(`runner/environments/builtin`).
"""
