"""The tasks to train on: `hud sync tasks arithmetic tasks.py`. Those of `held_out.jsonl` are others."""

from __future__ import annotations

from env import add

SUMS = (
    "15+17 31+32 39+18 12+24 19+37 14+28 28+37 39+15 27+15 27+39 34+39 24+27 18+13 13+33 28+28 11+11 "
    "24+38 26+26 33+21 39+16 39+22 10+12 36+31 27+11 20+18 37+29 18+35 32+28 14+11 22+14 11+13 10+34 "
    "10+38 34+37 30+30 10+19 24+29 36+16 18+21 26+15 37+35 30+15 18+28 26+31 31+14 19+10 23+17 18+38 "
    "35+37 18+25 27+26 21+13 25+39 31+17 34+28 13+39 17+16 34+15 37+33 21+20 14+32 38+24 22+31 37+19"
)

tasks = [add(*map(int, problem.split("+"))) for problem in SUMS.split()]
