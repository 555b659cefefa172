"""Calls of the API with curl, by the tag of what they call. Carried out in this order, in one shell."""

from __future__ import annotations

FIRST = """
source .headway/env      # HUD_API_URL and HUD_API_KEY
api() { curl -sSf -H "Authorization: Bearer $HUD_API_KEY" -H 'Content-Type: application/json' "$@"; }
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
"""

EXAMPLES = {
    "health": """
curl -s $HUD_API_URL/readyz
""",
    "account": """
api $HUD_API_URL/v2/auth/me
""",
    "models": """
BASE=$(api "$HUD_API_URL/v2/models/resolve?model=tiny-arith" | field id)
MODEL=$(api -d '{"source_model_id": "'$BASE'", "name": "by-hand", "lora": {"rank": 8}}' \\
  $HUD_API_URL/v2/models/fork | field id)
api $HUD_API_URL/v2/models/$MODEL
api $HUD_API_URL/v2/models/$MODEL/checkpoints
api -X PUT -d '{"checkpoint_id": null}' $HUD_API_URL/v2/models/$MODEL/head
""",
    "gateway": """
api -d '{"model": "by-hand", "messages": [{"role": "user", "content": "12+34=?"}], "max_tokens": 6}' \\
    $HUD_API_URL/v1/chat/completions
""",
    "training": """
rollout() {    # reward, sampled ids, logprobs
  echo '{"reward": '$1', "samples": [{"prompt_token_ids": [1, 2], "output_token_ids": '$2', "output_logprobs": '$3'}]}'
}
api -d '{"group_size": 2, "inputs": ['"$(rollout 1 [7,9] [-0.2,-1.1]), $(rollout 0 [8,9] [-2.0,-1.1])"']}' \\
    $HUD_API_URL/v1/models/$MODEL/train/forward-backward
api -d '{"learning_rate": 1e-4}' $HUD_API_URL/v1/models/$MODEL/train/optim-step
""",
    "jobs": """
JOB=$(python3 -c 'import uuid; print(uuid.uuid4())')
api -d '{"name": "by hand"}' $HUD_API_URL/v2/trace/job/$JOB/enter
api "$HUD_API_URL/v2/jobs?limit=5"
""",
    "traces": """
TRACE=$(python3 -c 'import uuid; print(uuid.uuid4())')
api -d '{"job_id": "'$JOB'"}' $HUD_API_URL/v2/trace/$TRACE/enter
api -H "Trace-Id: $TRACE" -d '{"model": "by-hand", "messages": [{"role": "user", "content": "12+34=?"}],
    "max_tokens": 6, "return_token_ids": true}' $HUD_API_URL/v1/chat/completions     # recorded with its tokens
api -d '{"status": "completed", "reward": 1}' $HUD_API_URL/v2/trace/$TRACE/exit
api $HUD_API_URL/v2/traces/$TRACE
""",
    "evals": """
api -d '{"benchmark": "my-benchmark", "score": 0.5}' $HUD_API_URL/v2/models/$MODEL/evals
""",
    "guard": """
api -X PUT -d '{"rules": {"kl_base": {"actions": ["pause"]}}}' $HUD_API_URL/v2/models/$MODEL/guard
""",
    "trainability": """
api $HUD_API_URL/v2/models/$MODEL/trainability
""",
    "tasksets": """
TASK='{"name": "add-1-2", "env": {"name": "sums"}, "task_id": "add", "args": {"a": 1, "b": 2}}'
api -d '{"taskset_name": "by-hand", "tasks": ['"$TASK"']}' $HUD_API_URL/v2/tasks/upload
api $HUD_API_URL/v2/tasksets/by-name/by-hand
""",
    "environments": """
api $HUD_API_URL/v2/registry
""",
    "runs": """
api "$HUD_API_URL/v2/runs?limit=5"
""",
    "files": """
echo '{"messages": [{"role": "user", "content": "3+4?"}], "answer": "7"}' > sums.jsonl
curl -sSf -H "Authorization: Bearer $HUD_API_KEY" -F purpose=fine-tune -F file=@sums.jsonl $HUD_API_URL/v1/files
""",
    "fine-tuning": """
api $HUD_API_URL/v1/fine_tuning/jobs
""",
    "team": """
api $HUD_API_URL/v2/team
""",
    "admin": """
source .headway/admin-env      # an operator's key
api $HUD_API_URL/v2/admin/teams
""",
}
