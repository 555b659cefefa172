#!/bin/bash
# The reward: 1 for exactly the sum in /app/answer.txt.
mkdir -p /logs/verifier
if [ "$(tr -d '[:space:]' < /app/answer.txt)" = 42 ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
