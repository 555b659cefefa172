"""The HUD SDK's wire: training, catalog, traces, jobs, tasksets, teams, administration."""
