"""One adapted linear layer, forwards and backwards: how many times longer PEFT's modules take than our one function,
by torch's products and by the best of this machine.

Processor time of one thread, the two alternated, by tokens, width and rank; D → D and D → 3D, as attention and MLP have
them. `python -m bench.fused_lora`; a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Mapping

import peft
import torch

from bench.baselines import Step
from bench.clock import alternate, step_seconds
from bench.figures import write_figures
from trainer.engine.fused_lora import FusedLora, is_merged
from trainer.engine.products import TORCH, Products, choose_products

_ENOUGH_FLOPS = 4e9
"""Of one round of a variant."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 768, 2048])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"torch": TORCH, "best": choose_products(torch.device("cpu"))}
    print(f"products: {', '.join(f'{way} {products.name}' for way, products in ways.items())}; how long PEFT takes")
    print(
        f"{'tokens':>8}{'inputs':>8}{'outputs':>9}{'rank':>6}{'merged':>8}{'torch':>12}{'best':>12}{'least–most':>14}"
    )
    rows = list[dict[str, float]]()
    for tokens, width, times, rank in itertools.product(options.tokens, options.widths, (1, 3), options.ranks):
        rows.append(_row(tokens, width, times * width, rank, options.rounds, ways))
        shape = "{tokens:8}{inputs:8}{outputs:9}{rank:6}{merged:>8}"
        print((shape + "{torch:11.2f}×{median:11.2f}×{min:8.2f}–{max:.2f}").format(**rows[-1]))
    write_figures("fused_lora", {"layers": rows})


def _row(
    tokens: int, inputs: int, outputs: int, rank: int, rounds: int, ways: Mapping[str, Products]
) -> dict[str, float]:
    layer = _adapted(inputs, outputs, rank)
    fused = FusedLora()
    fused.install(torch.nn.ModuleList([layer]))
    x_ND = torch.randn(tokens, inputs, requires_grad=True)
    slopes_NO = torch.randn(tokens, outputs)
    often = max(1, round(_ENOUGH_FLOPS / (4 * tokens * inputs * outputs)))

    def steps(on: bool, products: Products = TORCH) -> Step:
        def step() -> None:
            with fused.switched(on, products):
                for _ in range(often):
                    layer(x_ND).backward(slopes_NO)

        return step

    variants = {"peft": steps(on=False), **{way: steps(True, products) for way, products in ways.items()}}
    alternate(variants, 1, step_seconds)
    seconds = alternate(variants, rounds, step_seconds)
    of_torch, ratios = ([one / other for one, other in zip(seconds["peft"], seconds[way], strict=True)] for way in ways)
    return {
        "tokens": tokens,
        "inputs": inputs,
        "outputs": outputs,
        "rank": rank,
        "merged": int(is_merged(tokens, layer.get_base_layer().weight)),
        "torch": round(statistics.median(of_torch), 3),
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


def _adapted(inputs: int, outputs: int, rank: int) -> peft.tuners.lora.Linear:
    model = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False).requires_grad_(False))
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0"])
    return peft.inject_adapter_in_model(config, model)[0]


if __name__ == "__main__":
    main()
