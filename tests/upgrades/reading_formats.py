"""Reads, by whichever release is on the path, what another one wrote: JSON of hex on stdin, JSON of what it read."""

from __future__ import annotations

import json
import sys


def main() -> None:
    from store.rollouts.arrays import unpack
    from wire.datum_payload import decode_datums
    from wire.loaded import Loaded
    from wire.plans import decode_plan, decode_step_plan

    written = json.load(sys.stdin)
    plan = decode_plan(bytes.fromhex(written["plan"]))
    datums, arguments = decode_datums(bytes.fromhex(written["datums"]))
    tail, output, _ = unpack(bytes.fromhex(written["arrays"]))
    read = {
        "plan": [plan.kernel, plan.lora, plan.products, [shard[0].tolist() for shard in plan.shards]],
        "step": decode_step_plan(bytes.fromhex(written["step"])).max_grad_norm,
        "datums": [datum.model_input.ids.tolist() for datum in datums],
        "arguments": arguments,
        "arrays": [tail.tolist(), output.tolist()],
        "loaded": Loaded.read(written["loaded"]).version,
    }
    sys.stdout.write(json.dumps(read))


if __name__ == "__main__":
    main()
